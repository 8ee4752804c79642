/* Elementary functions on vectors; included by one file of each instruction set after its simd_*.h. */
#ifndef OMNI_CPU_SIMD_MATH_H
#define OMNI_CPU_SIMD_MATH_H

#include <math.h>

/* e^x within 2 units in the last place; 0 below -87.33 (no subnormals), at most e^88.37; NaN stays. x = n ln 2 + r, |r| <= ln 2 / 2, and a
 * polynomial for (e^r - 1 - r) / r^2 (error 1.1e-8). */
SIMD vf vf_exp(vf x) {
    const vf lowest = vf_set(-87.33654f);
    vmask tiny = vf_less(x, lowest);
    x = vf_min(vf_set(88.37f), vf_max(lowest, x)); /* in this order NaN stays: x86 takes the second operand */
    vf n = vf_round(vf_mul(x, vf_set(1.44269504f)));
    vf r = vf_fnma(n, vf_set(0x1.62e4p-1f), x);
    r = vf_fnma(n, vf_set(0x1.7f7d1cp-20f), r);
    vf p = vf_fma(vf_set(0.00139345432f), r, vf_set(0.00836377647f));
    p = vf_fma(p, r, vf_set(0.0416664568f));
    p = vf_fma(p, r, vf_set(0.166665734f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_add(vf_fma(vf_mul(r, r), p, r), vf_set(1.0f));
    /* Two steps, since 2^128 alone would overflow where the product does not. */
    vi half = vi_from(vf_mul(n, vf_set(0.5f)));
    vf first = vf_exp2i(half);
    vf second = vf_exp2i(vi_sub(vi_from(n), half));
    return vf_select(tiny, vf_set(0.0f), vf_mul(vf_mul(p, first), second));
}

/* vf_exp for x <= 0, where no result can overflow on the way. */
SIMD vf vf_exp_down(vf x) {
    const vf lowest = vf_set(-87.33654f);
    const vmask tiny = vf_less(x, lowest);
    x = vf_max(lowest, x); /* in this order NaN stays */
    vf n = vf_round(vf_mul(x, vf_set(1.44269504f)));
    vf r = vf_fnma(n, vf_set(0x1.62e4p-1f), x);
    r = vf_fnma(n, vf_set(0x1.7f7d1cp-20f), r);
    vf p = vf_fma(vf_set(0.00139345432f), r, vf_set(0.00836377647f));
    p = vf_fma(p, r, vf_set(0.0416664568f));
    p = vf_fma(p, r, vf_set(0.166665734f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_add(vf_fma(vf_mul(r, r), p, r), vf_set(1.0f));
    return vf_select(tiny, vf_set(0.0f), vf_mul(p, vf_exp2i(vi_from(n))));
}

/* x / (1 + e^-x) */
SIMD vf vf_silu(vf x) {
    return vf_div(x, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_set(0.0f), x))));
}

/* x / 2 * erfc(-x / sqrt 2). erfc(z) = e^(-z^2) t Q(t) with t = 1 / (1 + 0.42 z), z >= 0; Q is a fit of degree 9 (error 2.3e-9). */
SIMD vf vf_gelu(vf x) {
    vf z = vf_mul(vf_abs(x), vf_set(0.70710678f));
    vf t = vf_div(vf_set(1.0f), vf_fma(vf_set(0.41999998688697815f), z, vf_set(1.0f)));
    vf q = vf_fma(vf_set(-0.041161196f), t, vf_set(0.230840204f));
    q = vf_fma(q, t, vf_set(-0.486974846f));
    q = vf_fma(q, t, vf_set(0.437613141f));
    q = vf_fma(q, t, vf_set(-0.197731754f));
    q = vf_fma(q, t, vf_set(0.21395894f));
    q = vf_fma(q, t, vf_set(0.149959597f));
    q = vf_fma(q, t, vf_set(0.219912508f));
    q = vf_fma(q, t, vf_set(0.236609969f));
    q = vf_fma(q, t, vf_set(0.236973433f));
    vf tail = vf_mul(vf_exp(vf_sub(vf_set(0.0f), vf_mul(z, z))), vf_mul(t, q));
    vf twice = vf_select(vf_less(x, vf_set(0.0f)), tail, vf_sub(vf_set(2.0f), tail));
    return vf_mul(vf_mul(vf_set(0.5f), x), twice);
}

/* x / 2 * (1 + tanh u) = x / (1 + e^(-2 u)) */
SIMD vf vf_gelu_tanh(vf x) {
    vf u = vf_mul(vf_set(-1.59576912f), vf_mul(x, vf_fma(vf_mul(x, x), vf_set(0.044715f), vf_set(1.0f))));
    return vf_div(x, vf_add(vf_set(1.0f), vf_exp(u)));
}

/* Above this the reduction below loses digits; sinf takes over. */
#define SINE_LIMIT 10000.0f

/* sin(x)^2 for |x| < SINE_LIMIT, within 2e-7. x = n pi + r (the sign that n odd brings squares away); pi in three parts, of which
 * n times the first is exact; a polynomial of degree 11 for sin r, |r| <= pi / 2 (error 1.2e-10). */
SIMD vf vf_sine_squared(vf x) {
    vf n = vf_round(vf_mul(x, vf_set(0.318309886f)));
    vf r = vf_fnma(n, vf_set(0x1.921ep+1f), x);
    r = vf_fnma(n, vf_set(0x1.b544p-15f), r);
    r = vf_fnma(n, vf_set(0x1.0b4612p-33f), r);
    vf u = vf_mul(r, r);
    vf p = vf_fma(vf_set(-2.40613647e-08f), u, vf_set(2.75356446e-06f));
    p = vf_fma(p, u, vf_set(-0.000198410757f));
    p = vf_fma(p, u, vf_set(0.00833333272f));
    p = vf_fma(p, u, vf_set(-0.166666667f));
    vf s = vf_fma(vf_mul(r, u), p, r);
    return vf_mul(s, s);
}

#endif
