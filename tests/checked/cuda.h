// The CUDA that the kernels are written in, for a CPU: what prelude.cuh and the kernels use of it, no more.
//
// Each thread of a block is a fibre of runtime.cpp. A name that is missing here is an error of the compiler.

#include <math.h>

#define __global__
#define __device__
#define __shared__ static
#define __noinline__

struct Index {
    unsigned x, y, z;
};

// Constant as long as a thread lives; runtime.cpp changes them with the thread.
extern "C" const Index threadIdx, blockIdx, blockDim, gridDim;
extern "C" void checked_barrier(const char* file, int line);
extern "C" unsigned long long checked_shuffle(
    unsigned mask, unsigned long long value, int distance, const char* file, int line
);

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    checked_barrier(file, line);
}

#define CHECKED_SHUFFLE(T)                                                                                       \
    inline T __shfl_xor_sync(                                                                                    \
        unsigned mask, T x, int distance, const char* file = __builtin_FILE(), int line = __builtin_LINE()       \
    ) {                                                                                                          \
        union {                                                                                                  \
            T value;                                                                                             \
            unsigned long long bits;                                                                             \
        } slot = {x};                                                                                            \
        slot.bits = checked_shuffle(mask, slot.bits, distance, file, line);                                      \
        return slot.value;                                                                                       \
    }
CHECKED_SHUFFLE(int)
CHECKED_SHUFFLE(unsigned)
CHECKED_SHUFFLE(long long)
CHECKED_SHUFFLE(unsigned long long)
CHECKED_SHUFFLE(float)
CHECKED_SHUFFLE(double)

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

inline double __longlong_as_double(long long x) {
    double bits;
    __builtin_memcpy(&bits, &x, 8);
    return bits;
}

inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.7071067811865476); }

template <class T> inline T cospi(T x) { return cos((T)M_PI * (x - 2 * rint(x / 2))); }
template <class T> inline T sinpi(T x) { return sin((T)M_PI * (x - 2 * rint(x / 2))); }

// ---- calling a kernel ------------------------------------------------------------------------------------------

// A kernel's parameters as text, e.g. "const float32*,float32*,int64,double,", to be held against its arguments.
template <class A> struct Parameter;
#define CHECKED_PARAMETER(type, text)                                                                            \
    template <> struct Parameter<type> {                                                                         \
        static constexpr const char* name = text;                                                                \
    };
#define CHECKED_POINTER(type, text) CHECKED_PARAMETER(type*, text "*,") CHECKED_PARAMETER(const type*, "const " text "*,")
CHECKED_POINTER(float, "float32")
CHECKED_POINTER(double, "float64")
CHECKED_POINTER(int, "int32")
CHECKED_POINTER(long long, "int64")
CHECKED_POINTER(unsigned long long, "uint64")
CHECKED_POINTER(unsigned char, "uint8")
struct bf16;
CHECKED_POINTER(bf16, "bfloat16")
CHECKED_PARAMETER(long long, "int64,")
CHECKED_PARAMETER(double, "double,")

template <class A> A checked_argument(const unsigned long long*& slots) {
    static_assert(sizeof(A) == 8, "kernels take pointers, i64 and double");
    return *(const A*)slots++;
}

template <class... A> void checked_call(void (*kernel)(A...), const unsigned long long* slots) {
    struct In_order {  // braces evaluate from left to right
        In_order(void (*kernel)(A...), A... arguments) { kernel(arguments...); }
    } called{kernel, checked_argument<A>(slots)...};
}

template <class... A> void checked_signature(void (*)(A...), char* text) {
    const char* names[] = {Parameter<A>::name...};
    for (const char* name : names)
        while (*name) *text++ = *name++;
    *text = 0;
}

#define CHECKED_ENTRY(symbol, ...)                                                                               \
    extern "C" void symbol##_entry(const unsigned long long* slots) { checked_call(&__VA_ARGS__, slots); }       \
    extern "C" void symbol##_signature(char* text) { checked_signature(&__VA_ARGS__, text); }
