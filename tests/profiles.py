"""How many random programs the long-running properties try: a matter of hypothesis's profile.

HYPOTHESIS_PROFILE=nightly, or --hypothesis-profile nightly.  Only `settings_of_the_profile` asks
for it: all other tests run as often in each profile.
"""

import os

import pytest

try:
    from hypothesis import errors, settings
except ImportError:  # some of the tests do without
    settings = None

PROGRAMS = {"developer": 100, "ci": 1_000, "nightly": 50_000}
chosen = "developer"


def register():
    """Make the names known before hypothesis's plugin is configured, which looks for them."""
    if settings is None:
        return
    for name in PROGRAMS:
        try:
            settings.get_profile(name)  # hypothesis has one for CI: the same programs each time
        except errors.InvalidArgument:
            settings.register_profile(name, settings.get_profile("default"), print_blob=True)


def choose(config):
    global chosen
    asked = config.getoption("--hypothesis-profile", None) or os.environ.get("HYPOTHESIS_PROFILE")
    if asked and settings is not None:
        try:
            settings.load_profile(asked)
        except errors.InvalidArgument as error:
            raise pytest.UsageError(str(error)) from None
        chosen = asked


def settings_of_the_profile(share=1, **others):
    """Settings with the profile's number of programs, or a share of it."""
    programs = PROGRAMS.get(chosen, PROGRAMS["developer"])
    return settings(max_examples=int(programs * share), deadline=None, **others)
