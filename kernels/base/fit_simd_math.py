"""Computes the constants of simd_math_constants.h: run it and replace that file by its output.

Every polynomial is a weighted minimax fit: least squares on Chebyshev nodes, re-weighted by the
residual (Lawson's iteration). Needs numpy and mpmath; nothing imports this file.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 40


def minimax(f, powers, lo, hi, weight, nodes=600, rounds=400):
    """Coefficients of sum c_i v^powers[i] that minimise max |weight * (f - sum)| on [lo, hi]."""
    k = np.arange(nodes)
    v = 0.5 * (lo + hi) + 0.5 * (hi - lo) * np.cos(np.pi * (k + 0.5) / nodes)
    y = np.array([float(f(mp.mpf(float(t)))) for t in v])
    w = np.array([float(weight(mp.mpf(float(t)))) for t in v])
    scale = np.array([max(abs(lo), abs(hi)) ** p for p in powers])
    basis = np.stack([v**p for p in powers], axis=1) / scale
    lawson = np.ones(nodes) / nodes
    best, best_error = None, np.inf
    for _ in range(rounds):
        root = np.sqrt(lawson) * w
        c = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        residual = np.abs((basis @ c - y) * w)
        if residual.max() < best_error:
            best, best_error = c / scale, residual.max()
        lawson *= residual / residual.max() + 1e-3
        lawson /= lawson.sum()
    return best, best_error


def phi(x):
    """The normal distribution function."""
    return mp.erfc(-x / mp.sqrt(2)) / 2


def log2_odds(u):
    """-log2(Phi(x) / Phi(-x)) / x at u = x^2: smooth, and 2^(x * it) + 1 = 1 / Phi(x)."""
    x = mp.sqrt(u)
    return (mp.log(phi(-x)) - mp.log(phi(x))) / mp.log(2) / x


def show(name, values, note):
    print(f"// {note}")
    print(f"inline constexpr float {name}[{len(values)}] = {{")
    for i in range(0, len(values), 4):
        print("    " + " ".join(f"{np.float32(v):.9e}f," for v in values[i : i + 4]))
    print("};")


def exp2_fit(degree):
    c, error = minimax(
        lambda t: (mp.mpf(2) ** t - 1) / t if t else mp.log(2),
        range(degree),
        -0.5,
        0.5,
        lambda t: abs(t) / mp.mpf(2) ** t,
    )
    return [1.0, *c], error


def gelu_table(degree, width):
    """Phi(x) around n * width in powers of (x / width - n), at index n mod 32."""
    table = np.zeros((degree + 1, 32))
    worst = 0.0
    for n in range(-15, 16):
        if abs(n) == 15:
            table[0, n % 32] = 1.0 if n > 0 else 0.0
            continue
        c, error = minimax(
            lambda f, n=n: phi((f + n) * width),
            range(degree + 1),
            -0.5,
            0.5,
            lambda f: 1,
            nodes=200,
            rounds=100,
        )
        worst = max(worst, error)
        table[:, n % 32] = c
    return table, worst


def main():
    print("// Constants of simd_math.h, computed by fit_simd_math.py: do not edit.")
    print("#ifndef KPT_KERNELS_BASE_SIMD_MATH_CONSTANTS_H_")
    print("#define KPT_KERNELS_BASE_SIMD_MATH_CONSTANTS_H_")
    print("\nnamespace kpt {\n")
    for name, degree in (("kExp2Fast", 3), ("kExp2", 6)):
        c, error = exp2_fit(degree)
        show(name, c, f"2^f for |f| <= 1/2, relative error {error:.2g}.")
    half = float(mp.log(2)) / 2
    c, error = minimax(
        lambda t: (mp.exp(t) - 1) / t if t else mp.mpf(1),
        range(6),
        -half,
        half,
        lambda t: abs(t) / mp.exp(t),
    )
    show("kExp", [1.0, *c], f"e^r for |r| <= ln(2) / 2, relative error {error:.2g}.")

    def relative(u):
        # An error d of the exponent moves x * Phi(x) by x * Phi * (1 - Phi) * ln(2) * d: relative
        # to the result where that is not tiny.
        x = mp.sqrt(u)
        p = phi(-x)
        return x * p / (p + 1e-4)

    def absolute(u):
        # In units of 3e-8 of x * Phi(x), and still 5e-3 in the exponent far out.
        x = mp.sqrt(u)
        return x * x * phi(-x) / 3e-8 + x / 5e-3

    for name, degree, limit, weight in (
        ("kGeluOddsFast", 4, 4.75, relative),
        ("kGeluOdds", 10, 5.5, absolute),
    ):
        c, error = minimax(log2_odds, range(degree + 1), 1e-6, limit**2, weight)
        print(f"inline constexpr float {name}Limit = {limit}f;")
        show(
            name,
            c,
            f"-log2(Phi(x) / Phi(-x)) / x in powers of x^2, |x| <= {limit}; "
            f"weighted error {error:.2g}.",
        )
    for name, degree in (("kTanhFast", 2), ("kTanh", 5)):
        c, error = minimax(
            lambda u: (mp.tanh(mp.sqrt(u)) / mp.sqrt(u) - 1) / u,
            range(degree + 1),
            1e-6,
            0.625**2,
            lambda u: u * mp.sqrt(u) / mp.tanh(mp.sqrt(u)),
        )
        show(
            name,
            c,
            f"(tanh(x) / x - 1) / x^2 in powers of x^2, |x| <= 0.625; "
            f"relative error of tanh {error:.2g}.",
        )
    for name, degree, width in (("kGeluTableFast", 2, 0.32), ("kGeluTable", 5, 0.385)):
        table, error = gelu_table(degree, width)
        print(f"inline constexpr float {name}Width = {width}f;")
        print(
            f"// Phi around n * width in powers of x / width - n, at n mod 32; error {error:.2g}."
        )
        print("// Exactly 0 and 1 at n = -15 and 15, where x is clamped.")
        print(f"inline constexpr float {name}[{degree + 1}][32] = {{")
        for row in table:
            print("    {")
            for i in range(0, 32, 4):
                print("        " + " ".join(f"{np.float32(v):.9e}f," for v in row[i : i + 4]))
            print("    },")
        print("};")
    print("\n}  // namespace kpt\n")
    print("#endif  // KPT_KERNELS_BASE_SIMD_MATH_CONSTANTS_H_")


if __name__ == "__main__":
    main()
