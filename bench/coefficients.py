"""Where the numbers in src/core/kernels.h come from: approximations, their coefficients and errors.

    pip install mpmath && python bench/coefficients.py

Each function is smooth on its interval once what is awkward about it is divided out, so it is
interpolated at Chebyshev points, in 60 digits: within a small factor of the best approximation
of that degree.  A rational function p / q interpolates where p - f q = 0, which is linear in the
coefficients.  The errors printed are those of the rounded coefficients, in exact arithmetic.
"""

import struct

from mpmath import atanh, cos, erf, erfinv, lu_solve, matrix, mp, mpf, pi, sin, sqrt

mp.dps = 60


def chebyshev_points(count, low, high):
    return [
        (low + high) / 2 - (high - low) / 2 * cos(pi * (2 * i + 1) / (2 * count))
        for i in range(count)
    ]


def fitted(function, above, below, low, high):
    """Coefficients of a polynomial, of another one for the denominator: that one begins with 1."""
    points = chebyshev_points(above + below + 1, mpf(low), mpf(high))
    rows, values = [], []
    for x in points:
        y = function(x)
        rows.append([x**i for i in range(above + 1)] + [-y * x**i for i in range(1, below + 1)])
        values.append(y)
    solution = list(lu_solve(matrix(rows), matrix(values)))
    return solution[: above + 1], [mpf(1), *solution[above + 1 :]]


def rounded(x, single):
    """The nearest float32 or float64."""
    return struct.unpack("f", struct.pack("f", float(x)))[0] if single else float(x)


def value(coefficients, x):
    total = mpf(0)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def log_tail(z):
    """atanh(s) = s + s z P(z), z = s**2."""
    s = sqrt(z)
    return (atanh(s) / s - 1) / z


def sine(z):
    """sin(pi/2 x) = x P(z), z = x**2."""
    x = sqrt(z)
    return sin(pi / 2 * x) / x


def cosine_tail(z):
    """cos(pi/2 x) = 1 + z P(z)."""
    return (cos(pi / 2 * sqrt(z)) - 1) / z


def truncated(z):
    """The inverse distribution function is v P(z) / Q(z), z = 1 - v**2, v = 2u - 1.

    The poles lie at negative z: so all coefficients are positive, and nothing cancels.
    """
    v = sqrt(1 - z)
    return sqrt(2) * erfinv(v * erf(sqrt(2))) / v


FITS = [
    ("LOG", log_tail, 0, mpf(1) / 9, (4, 0), (10, 0)),
    ("SIN", sine, 0, mpf(1) / 4, (3, 0), (7, 0)),
    ("COS", cosine_tail, 0, mpf(1) / 4, (3, 0), (7, 0)),
    ("PROBIT", truncated, 0, 1, (6, 6), (13, 13)),
]


def main():
    for name, function, low, high, *degrees in FITS:
        for (above, below), single in zip(degrees, (True, False), strict=True):
            parts = fitted(function, above, below, low, high)
            parts = [[rounded(c, single) for c in part] for part in parts]
            error = max(
                abs(value(parts[0], x) / value(parts[1], x) / function(x) - 1)
                for x in chebyshev_points(1000, mpf(low), mpf(high))
            )
            print(f"{name} {'float' if single else 'double'}: relative error {float(error):.1e}")
            for part in parts if below else parts[:1]:
                print("   ", ", ".join(f"{c.hex()}{'f' if single else ''}" for c in part))
                print("   ", ", ".join(f"{c:.17g}" for c in part))


if __name__ == "__main__":
    main()
