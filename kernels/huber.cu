// l = r²/2 where |r| <= δ, else δ (|r| - δ/2), with r = z - t (Huber 1964); set by δ
struct Huber {
    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T>, Settings set) {
        T r = z - t, d = (T)set.first, near = smaller(fabs(r), d);
        return {near * (fabs(r) - near / 2), larger(smaller(r, d), -d), 1, 0};
    }
};
ELEMENTWISE_LOSS(huber, Huber)
