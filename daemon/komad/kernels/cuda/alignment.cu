// Sums and gradients in Fourier space, as kernels/cpu/alignment.py.

#include "common.cuh"

__device__ inline Complex times(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// total[w, y, x] = sum over t of values[w, t, y, x] wave_y[w, t, y] wave_x[w, t, x]
KERNEL aligned_sum(
    long long n_items, const Complex *values, const Complex *wave_y, const Complex *wave_x, Complex *total, int n_frames,
    int my, int mx
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int x = item % mx, y = item / mx % my;
    const long long w = item / ((long long)mx * my);
    Complex sum = {0, 0};
    for (int t = 0; t < n_frames; ++t) {
        const long long of_frame = w * n_frames + t;
        const Complex wave = times(wave_y[of_frame * my + y], wave_x[of_frame * mx + x]);
        const Complex moved = times(values[(of_frame * my + y) * mx + x], wave);
        sum.re += moved.re;
        sum.im += moved.im;
    }
    total[item] = sum;
}

// Part of every row in the gradient: partial[w, t, y, (along y, along x)]
KERNEL alignment_gradient(
    long long n_items, const Complex *values, const Complex *wave_y, const Complex *wave_x, const float *ky,
    const float *kx, const Complex *pull, double *partial, int n_frames, int my, int mx
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y = item % my;
    const long long of_frame = item / my, w = of_frame / n_frames;
    const Complex up = wave_y[item];
    float along_y = 0, along_x = 0;
    for (int x = 0; x < mx; ++x) {
        const Complex shifted = times(values[item * mx + x], times(up, wave_x[of_frame * mx + x]));
        const Complex towards = pull[(w * my + y) * mx + x];
        // d|A|^2/ds = 2 Re(conj(A) (-2 pi i k) G) = 4 pi k Im(conj(A) G); a frame's own part is real.
        const float slope = towards.re * shifted.im - towards.im * shifted.re;
        along_y += slope;
        along_x += slope * kx[x];
    }
    const double four_pi = 12.566370614359172;
    partial[2 * item] = four_pi * ky[y] * along_y;
    partial[2 * item + 1] = four_pi * along_x;
}
