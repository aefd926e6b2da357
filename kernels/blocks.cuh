// Many steps of many small networks in one launch: a block takes those of one network, call by call.
//
// What stands in front are the kernels that a step calls, as functions of the device. In a grid of (1, 1, networks)
// each of them finds its block to be the only one. Between two of them the threads wait for each other, where
// otherwise there is a launch. CASES names the kernels, each by its number: gpumlp/backend/cuda/blocks.py.
//
// Each kernel stays a function that is called: in one piece they would want 168 registers.
//
// calls (count, 2): which kernel, and where its arguments begin in a row of slots; slots (networks, pitch), each eight
// bytes: a pointer, a whole number or a double.

template <class A> struct Argument {
    __device__ static inline A of(u64 bits) { return (A)bits; }
};
template <> struct Argument<double> {
    __device__ static inline double of(u64 bits) { return __longlong_as_double((i64)bits); }
};

template <int... I> struct Places {};
template <int N, int... I> struct UpTo : UpTo<N - 1, N - 1, I...> {};
template <int... I> struct UpTo<0, I...> { typedef Places<I...> type; };

template <auto kernel> struct Called;
template <class... A, void (*kernel)(A...)> struct Called<kernel> {
    template <int... I> __device__ static inline void with(const u64* slots, Places<I...>) {
        kernel(Argument<A>::of(slots[I])...);
    }
    __device__ static __noinline__ void with(const u64* slots) { with(slots, typename UpTo<sizeof...(A)>::type()); }
};

#define CASE(number, ...) \
    case number: Called<__VA_ARGS__>::with(own + call[1]); break;

__global__ void steps_in_blocks(const i64* calls, const u64* slots, i64 count, i64 pitch, i64 steps) {
    const u64* own = slots + blockIdx.z * pitch;
    for (i64 step = 0; step < steps; ++step)
        for (const i64* call = calls; call < calls + 2 * count; call += 2) {
            switch (call[0]) { CASES }
            __syncthreads();
        }
}
