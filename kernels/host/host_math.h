// The mathematical functions of the kernels where their text is compiled for a CPU, by g++ or clang.
//
//   exp  expm1  log  log1p  tanh  normal_cdf  sinpi  cospi        each for float and for double, in gpumlp_math
//
// A loop marked `#pragma omp simd` that calls one becomes vector code: there is no branch, no table and no call, only
// arithmetic, comparisons and integer operations on a number's bits that SSE2 and NEON already have. That asks for
//   -O3 -fno-math-errno -fno-trapping-math -fopenmp-simd, and for speed -march=native -ffp-contract=fast,
// but never for -ffast-math: NaN, the infinities and the sign of zero come out as IEEE 754 has them.
//
// The largest error found, with FMA and without, in units in the last place; the normal ones are relative to the value:
//            exp   expm1  log   log1p  log1p_unit  tanh  normal_cdf  normal_pdf
//   float    1.05  1.33   1.54  1.78   1.78        1.50  5.1e-7      1.8e-7    every float, against double
//   double   1.54  2.57   1.53  1.56   1.58        3.17  2.4e-15     3.0e-16   10^7 doubles each, against binary128
//   sinpi and cospi: float 1.02 (1.65 without FMA), every seventh float against double; double 1.6, 10^4 against mpmath
// (4 10^5 doubles of log1p_unit and normal_pdf, against long double; floats of a normal density that are not denormal)
// The polynomials are minimax fits made with mpmath (Remez, relative error); their own errors stand beside them.
// The reductions are fdlibm's (Sun, 1993) in idea; other sources are named where they are used.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#define GPUMLP_INLINE __attribute__((always_inline)) inline  // a call left in a loop would leave the loop scalar

namespace gpumlp_math {

// ---- What <cmath> has: that header takes longer to read than all the rest -----------------------------------------

GPUMLP_INLINE float fabs(float x) { return __builtin_fabsf(x); }
GPUMLP_INLINE double fabs(double x) { return __builtin_fabs(x); }
GPUMLP_INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
GPUMLP_INLINE double sqrt(double x) { return __builtin_sqrt(x); }
GPUMLP_INLINE float copysign(float x, float y) { return __builtin_copysignf(x, y); }
GPUMLP_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
GPUMLP_INLINE double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
GPUMLP_INLINE double copysign(double x, double y) { return __builtin_copysign(x, y); }
GPUMLP_INLINE double pow(double x, double y) { return __builtin_pow(x, y); }
GPUMLP_INLINE double rint(double x) { return __builtin_rint(x); }

// ---- Bits and polynomials ---------------------------------------------------------------------------------------

template <class T> struct Format;

template <> struct Format<float> {
    using Bits = std::uint32_t;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr Bits root_half = 0x3f3504f3;                // the bits of sqrt(1/2)
    static constexpr float ln2_hi = 0x1.62e4p-1f;                // 15 bits, so that n ln2_hi is exact
    static constexpr float ln2_lo = 0x1.7f7d1cp-20f;             // ln 2 - ln2_hi
    static constexpr float exp_low = -104, exp_high = 89;        // below is 0, above is infinity
    static constexpr float expm1_low = -20, expm1_high = 88.9f;  // below is -1, above is infinity
    static constexpr float normal_limit = 14.6f;
    static constexpr Bits leading = 0xfffff000u;
};

template <> struct Format<double> {
    using Bits = std::uint64_t;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr Bits root_half = 0x3fe6a09e667f3bcd;
    static constexpr double ln2_hi = 0x1.62e42feep-1;            // 32 bits
    static constexpr double ln2_lo = 0x1.a39ef35793c76p-33;
    static constexpr double exp_low = -746, exp_high = 710;
    static constexpr double expm1_low = -40, expm1_high = 709.9;
    static constexpr double normal_limit = 39;
    static constexpr Bits leading = ~Bits(0x7ffffff);
};

template <class T> using Bits = typename Format<T>::Bits;
template <class T> GPUMLP_INLINE Bits<T> to_bits(T x) { Bits<T> b; std::memcpy(&b, &x, sizeof b); return b; }
template <class T> GPUMLP_INLINE T from_bits(Bits<T> b) { T x; std::memcpy(&x, &b, sizeof x); return x; }
template <class T> constexpr Bits<T> sign_bit = Bits<T>(1) << (8 * sizeof(T) - 1);
template <class T> constexpr Bits<T> mantissa_mask = (Bits<T>(1) << Format<T>::mantissa) - 1;

// c0 + c1 x + c2 x^2 + ...: neighbouring elements of a vector loop hide the latency of Horner's chain.
template <class T> GPUMLP_INLINE T horner(T, T c) { return c; }
template <class T, class... C> GPUMLP_INLINE T horner(T x, T c, C... higher) { return c + x * horner(x, higher...); }

// y, but below or above where x is out of range. A comparison with NaN is false, so y hands NaN on.
template <class T> GPUMLP_INLINE T within(T x, T low, T high, T y, T below, T above) {
    const T z = x > high ? above : y;
    return x < low ? below : z;
}

// ---- Exponentials -----------------------------------------------------------------------------------------------

// x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^mantissa rounds to an integer and leaves it in the low bits; an
// offset on top makes them an exponent field, which no machine then has to convert.
template <class T> struct Reduced {
    T r;
    Bits<T> n;  // low bits: n + offset
};

template <class T> GPUMLP_INLINE Reduced<T> reduce(T x, int offset) {
    using F = Format<T>;
    const T shifter = T(3) * T(Bits<T>(1) << (F::mantissa - 1)) + T(offset);
    const T shifted = x * T(0x1.71547652b82fep+0) + shifter;  // log2(e)
    const T n = shifted - shifter;
    return {(x - n * F::ln2_hi) - n * F::ln2_lo, to_bits(shifted)};
}

// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2; as part of e^r - 1 wrong by less than 1.4e-8 (float), 1.9e-17 (double).
GPUMLP_INLINE float exp_tail(float r) {
    return horner(r, 0x1.fffffep-2f, 0x1.5554aep-3f, 0x1.555678p-5f, 0x1.122916p-7f, 0x1.6beb4cp-10f);
}

GPUMLP_INLINE double exp_tail(double r) {
    return horner(r, 0.5, 0x1.5555555555538p-3, 0x1.5555555552191p-5, 0x1.111111111932dp-7, 0x1.6c16c17f2f144p-10,
                  0x1.a01a017424972p-13, 0x1.a019a662c37e8p-16, 0x1.71de895905f4ep-19, 0x1.28a2f96d7f44ap-22,
                  0x1.ae6b0984ad4a4p-26);
}

// y 2^n, n stored with an offset of twice the bias: in two halves, since 2^n itself may be out of range where the
// product is not. Only the last multiplication can round, so a denormal result is rounded once.
template <class T> GPUMLP_INLINE T scale(T y, Bits<T> n) {
    const Bits<T> half = n >> 1;  // bits above the exponent field are shifted out below
    return y * from_bits<T>(half << Format<T>::mantissa) * from_bits<T>((n - half) << Format<T>::mantissa);
}

// e^x = 2^n e^r.
template <class T> GPUMLP_INLINE T exp_of(T x) {
    using F = Format<T>;
    const Reduced<T> a = reduce(x, 2 * F::bias);
    const T y = scale(T(1) + (a.r + a.r * a.r * exp_tail(a.r)), a.n);
    return within(x, F::exp_low, F::exp_high, y, T(0), std::numeric_limits<T>::infinity());
}

// unit (e^x - 1) = (s r + (s - unit)) + s (e^r - 1 - r) with s = unit 2^n: s - unit is exact or far above unit, and
// s r is exact, so that little is lost where they cancel (n = 1 and r < 0).
template <class T> GPUMLP_INLINE T expm1_scaled(T x, T unit, int offset) {
    const Reduced<T> a = reduce(x, offset);
    const T s = from_bits<T>(a.n << Format<T>::mantissa);
    return (s * a.r + (s - unit)) + s * (a.r * a.r * exp_tail(a.r));
}

template <class T> GPUMLP_INLINE T expm1_of(T x) {
    using F = Format<T>;
    // Half the result, for 2^n itself overflows before e^x does.
    const T half = expm1_scaled(x, T(0.5), F::bias - 1);
    const T y = fabs(x) < std::numeric_limits<T>::epsilon() / 4 ? x : half + half;  // keeps -0 and denormals
    return within(x, F::expm1_low, F::expm1_high, y, T(-1), std::numeric_limits<T>::infinity());
}

// float: x + x^3 P(x^2), wrong by less than 3.8e-8, up to 0.55, from where on 1 - 2 / (e^(2|x|) + 1) loses nothing.
GPUMLP_INLINE float tanh(float x) {
    const float a = fabs(x), z = a * a;
    const Reduced<float> e = reduce(a + a, 127);
    const float s = from_bits<float>(e.n << 23);
    const float large = 1 - 2 / ((s + s * (e.r + e.r * e.r * exp_tail(e.r))) + 1);
    const float small = a + a * z * horner(z, -0x1.555452p-2f, 0x1.10cef2p-3f, -0x1.af7bd2p-5f, 0x1.0d4ae2p-6f);
    const float y = a < 0.55f ? small : large;
    return copysign(a > 10 ? 1 : y, x);
}

// double: tanh |x| = e / (e + 2) with e = e^(2|x|) - 1; the quotient damps the error of e as it grows.
GPUMLP_INLINE double tanh(double x) {
    const double a = fabs(x), e = expm1_scaled(a + a, 1.0, 1023);
    return copysign(a > 20 ? 1 : e / (e + 2), x);
}

// ---- Logarithms -------------------------------------------------------------------------------------------------

// log(1 + f) - f for sqrt(1/2) - 1 <= f <= sqrt(2) - 1.
// float: f^2 P(f), wrong by less than 3.0e-8 of log(1 + f); a division would cost more than its degree.
GPUMLP_INLINE float log1p_tail(float f) {
    return f * f * horner(f, -0x1.fffffap-2f, 0x1.5556f4p-2f, -0x1.00049ap-2f, 0x1.98d2a6p-3f, -0x1.535cf4p-3f,
                          0x1.31860cp-3f, -0x1.2506d0p-3f, 0x1.65c78cp-4f);
}

// double: 2 atanh(s) = 2 s + s^3 P(s^2) with s = f / (2 + f), where f - 2 s = s f (fdlibm); wrong by < 1.3e-18.
GPUMLP_INLINE double log1p_tail(double f) {
    const double s = f / (2 + f), z = s * s, h = 0.5 * f * f;
    return s * (h + z * horner(z, 0x1.5555555555592p-1, 0x1.999999997fd82p-2, 0x1.24924941f4a61p-2,
                               0x1.c71c52061d865p-3, 0x1.74663fa502ad2p-3, 0x1.39a1a6234d5d2p-3,
                               0x1.2f0640ddd32e5p-3)) - h;
}

// log(2^k (1 + f)).
template <class T> GPUMLP_INLINE T log_sum(T f, T k) {
    return (k * Format<T>::ln2_hi + f) + (log1p_tail(f) + k * Format<T>::ln2_lo);
}

// x = 2^k m with m in [sqrt(1/2), sqrt(2)). With sqrt(1/2) in x's bits moved to 1, k + bias is the exponent field; as
// the mantissa of a number near 2^mantissa it is a floating-point number at once.
template <class T> GPUMLP_INLINE Bits<T> centred(T x) {
    return to_bits(x) + (to_bits(T(1)) - Format<T>::root_half);
}

template <class T> GPUMLP_INLINE T exponent(Bits<T> c, T bias) {
    const T anchor = T(Bits<T>(1) << Format<T>::mantissa);
    return from_bits<T>((c >> Format<T>::mantissa) | to_bits(anchor)) - (anchor + bias);
}

// What a logarithm of x is where 1 + f does not say it: zero is x's distance from the pole.
template <class T> GPUMLP_INLINE T log_limits(T x, T zero, T y) {
    using Limits = std::numeric_limits<T>;
    const T upper = x < Limits::infinity() ? y : x;  // infinity and NaN
    const T lower = zero < 0 ? Limits::quiet_NaN() : upper;
    return zero == 0 ? -Limits::infinity() : lower;
}

template <class T> GPUMLP_INLINE T log_of(T x) {
    using F = Format<T>;
    const bool denormal = x < std::numeric_limits<T>::min();
    const Bits<T> c = centred(denormal ? x * T(Bits<T>(1) << F::mantissa) : x);
    const T k = exponent(c, denormal ? T(F::bias + F::mantissa) : T(F::bias));
    return log_limits(x, x, log_sum(from_bits<T>((c & mantissa_mask<T>) + F::root_half) - T(1), k));
}

// k is taken from 1 + x as rounded, f = x / 2^k + (1 / 2^k - 1) from x itself: one rounding, nothing of x is lost.
// s = 4 / 2^k stays a normal number up to the largest x; 2 bias + 2 in its exponent field is the sign bit.
template <class T> GPUMLP_INLINE T log1p_of(T x) {
    const Bits<T> c = centred(T(1) + x);
    const T s = from_bits<T>(sign_bit<T> - (c & ~mantissa_mask<T>));
    const T y = log_sum(T(0.25) * (s * x + (s - T(4))), exponent(c, T(Format<T>::bias)));
    return x == 0 ? x : log_limits(x, T(1) + x, y);  // x itself for the sake of -0
}

// log(1 + x) for 0 <= x <= 1, as after an exponential: above sqrt(2) - 1 it is log 2 + log(1 + (x - 1) / 2). Which of the
// two, 0 or a half, is found by rounding: of a question compilers make two paths, and then take both.
template <class T> GPUMLP_INLINE T log1p_unit_of(T x) {
    const T shifter = T(3) * T(Bits<T>(1) << (Format<T>::mantissa - 2));  // its last digit is a half
    const T half = (x * T(0.60355339) + shifter) - shifter;
    return log_sum((x - half * x) - half, half + half);
}

// ---- The normal distribution ------------------------------------------------------------------------------------

// Phi(-a) e^(a^2/2) as (k/2 + a P(t) / (a + k)) / (a + k) with t = (a - k) / (a + k), up to where Phi(-a) vanishes:
// one polynomial for the whole range (the substitution is Schonfelder's, 1978), wrong by less than 5.5e-8 (float) and
// 9.3e-16 (double) of the value. k/2 apart makes Phi(0) = 1/2, and the values near it the best ones.
GPUMLP_INLINE float mills(float a) {
    const float w = 1 / (a + 3);
    return w * (1.5f + a * w * horner((a - 3) * w, -0x1.8ab58cp+0f, 0x1.0bdcaep-1f, -0x1.029384p-4f, -0x1.0113e6p-5f,
                                      0x1.556ccap-7f, 0x1.c058f4p-9f, -0x1.4c117cp-10f, -0x1.154966p-11f));
}

GPUMLP_INLINE double mills(double a) {
    const double w = 1 / (a + 5);
    return w * (2.5 + a * w * horner((a - 5) * w, -0x1.bb162a0f0352ap+1, 0x1.10bfa815c5048p+1, -0x1.23e69d8f4e737p+0,
        0x1.06be65262358ep-1, -0x1.770d2f5aa9c5ap-3, 0x1.6fc4283ef7bd9p-5, -0x1.b0f53423277dap-9,
        -0x1.5fbcee5982826p-9, 0x1.1d299b8d196bep-10, 0x1.0b8aac26c3063p-19, -0x1.fa6d40216cba9p-14,
        0x1.63b10e46c95ffp-16, 0x1.97a600ced3bb1p-17, -0x1.16adf1a9736acp-18, -0x1.6b7d5817a3b32p-20,
        0x1.551b2a4c40511p-21, 0x1.8733b8e2f48e4p-23, -0x1.22ad71b9e8ceap-24, -0x1.848ea20379bcep-26));
}

// -a^2/2 in two parts, the second of which is what the first has lost by rounding.
template <class T> struct Halves { T hi, lo; };

template <class T> GPUMLP_INLINE Halves<T> half_square(T a) {
#ifdef __FP_FAST_FMAF
    const T hi = T(-0.5) * a * a;
    return {hi, fma(T(-0.5) * a, a, -hi)};
#else
    const T head = from_bits<T>(to_bits(a) & Format<T>::leading);  // its square is exact
    const T most = T(-0.5) * head * head, rest = T(-0.5) * (a - head) * (a + head), hi = most + rest;
    return {hi, (most - hi) + rest};
#endif
}

// e^(-a^2/2) as e^r 2^n: e^r, and n with the offset that scale wants. An error in the exponent is one in the result.
template <class T> GPUMLP_INLINE Reduced<T> exp_half_square(T a) {
    const Halves<T> square = half_square(a);
    const Reduced<T> e = reduce(square.hi, 2 * Format<T>::bias);
    const T r = e.r + square.lo;
    return {T(1) + (r + r * r * exp_tail(r)), e.n};
}

// Phi(-a) = mills(a) e^(-a^2/2), which is 0 beyond the limit.
template <class T> GPUMLP_INLINE T normal_cdf_of(T x) {
    const T a = fabs(x);
    const Reduced<T> e = exp_half_square(a);
    const T y = scale(mills(a) * e.r, e.n), tail = a > Format<T>::normal_limit ? T(0) : y;
    return x > 0 ? T(1) - tail : tail;
}

// e^(-x^2/2) / sqrt(2 pi). Beside normal_cdf it costs little, for the compiler sees that e is the same.
template <class T> GPUMLP_INLINE T normal_pdf_of(T x) {
    const T a = fabs(x);
    const Reduced<T> e = exp_half_square(a);
    const T y = scale(T(0.3989422804014327) * e.r, e.n);
    return a > Format<T>::normal_limit ? T(0) : y;
}

// ---- Waves ------------------------------------------------------------------------------------------------------

// sin(pi f) and cos(pi f) for |f| <= 1/4, as f pi + f^3 P(f^2) and 1 + f^2 P(f^2), wrong by less than 1e-8 (float) and
// 2e-19 (double). Pi is in two parts above 0, so that -0 comes back.
GPUMLP_INLINE float sine(float f) {
    const float z = f * f;
    const float tail = horner(z, -0x1.4abbccp+2f, 0x1.4665e8p+1f, -0x1.2ee7bcp-1f);
    return f * 0x1.921fb4p+1f + f * (z * tail + 0x1.4442d2p-23f);
}

GPUMLP_INLINE double sine(double f) {
    const double z = f * f;
    const double tail = horner(z, -0x1.4abbce625be53p+2, 0x1.466bc6775aae1p+1, -0x1.32d2cce62b872p-1,
                               0x1.50783486facaap-4, -0x1.e3074d2614b2dp-8, 0x1.e8f036bcd3237p-12,
                               -0x1.6cc577dadd922p-16);
    return f * 0x1.921fb54442d18p+1 + f * (z * tail + 0x1.1a62633145c07p-53);
}

GPUMLP_INLINE float cosine(float f) {
    const float z = f * f;
    return 1 + z * horner(z, -0x1.3bd3ccp+2f, 0x1.03c1eap+2f, -0x1.55cb98p+0f, 0x1.db6492p-3f);
}

GPUMLP_INLINE double cosine(double f) {
    const double z = f * f;
    return 1 + z * horner(z, -0x1.3bd3cc9be45dep+2, 0x1.03c1f081b5ac0p+2, -0x1.55d3c7e3cb241p+0,
                          0x1.e1f5068688d5bp-3, -0x1.a6d1eef479be1p-6, 0x1.f9ce245cada0bp-10, -0x1.b2f3eb054afcdp-14);
}

// x = 2 m + n / 2 + f with |f| <= 1/4, all of it exact. Adding 1.5 * 2^(mantissa + half) rounds to a multiple of the even
// number 2^half, which is a number of whole turns; the bits of n say in which quarter of a turn the rest is. Numbers
// too large for that are even.
template <class T> struct Quarter {
    T f;
    Bits<T> n;  // low bits
};

template <class T> GPUMLP_INLINE Quarter<T> quarter(T x) {
    using F = Format<T>;
    constexpr int half = F::mantissa / 2;
    const T turns = T(3) * T(Bits<T>(1) << (F::mantissa - 1)) * T(Bits<T>(1) << half);
    const T inside = fabs(x) < turns / 4 ? x - ((x + turns) - turns) : x * T(0);  // 0, or NaN where there is no value
    const T shifter = T(3) * T(Bits<T>(1) << (F::mantissa - 1));
    const T shifted = (inside + inside) + shifter;
    return {inside - T(0.5) * (shifted - shifter), to_bits(shifted)};
}

// The sine or, in odd quarters, the cosine, with the sign that the second bit of n tells.
template <class T> GPUMLP_INLINE T wave(T f, Bits<T> n) {
    const T y = (n & 1) ? cosine(f) : sine(f);
    return from_bits<T>(to_bits(y) ^ (n & 2) << (8 * sizeof(T) - 2));
}

template <class T> GPUMLP_INLINE T sinpi_of(T x) {
    const Quarter<T> q = quarter(x);
    return wave(q.f, q.n);
}

template <class T> GPUMLP_INLINE T cospi_of(T x) {
    const Quarter<T> q = quarter(x);
    return wave(q.f, q.n + 1);
}

// ---- The functions ----------------------------------------------------------------------------------------------

#define GPUMLP_BOTH(name)                                          \
    GPUMLP_INLINE float name(float x) { return name##_of(x); }     \
    GPUMLP_INLINE double name(double x) { return name##_of(x); }
GPUMLP_BOTH(exp)
GPUMLP_BOTH(expm1)
GPUMLP_BOTH(log)
GPUMLP_BOTH(log1p)
GPUMLP_BOTH(log1p_unit)
GPUMLP_BOTH(normal_cdf)
GPUMLP_BOTH(normal_pdf)
GPUMLP_BOTH(sinpi)
GPUMLP_BOTH(cospi)
#undef GPUMLP_BOTH

}  // namespace gpumlp_math
