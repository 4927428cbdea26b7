// Sums and gradients in Fourier space, as kernels/cpu/alignment.py.

__device__ inline Complex times(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// wave[w, t, i] = exp(-2 pi i k[i] shift[w, t, axis]): the separable factors of a displacement.
KERNEL waves(
    long long n_items, const double *__restrict__ shifts, const float *__restrict__ k, Complex *__restrict__ wave, int axis,
    int length
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const double turns = shifts[item / length * 2 + axis] * k[item % length];
    // Whole turns are taken off while there are digits to spare.
    const float angle = -6.2831853f * (float)(turns - rint(turns));
    wave[item] = {cosf(angle), sinf(angle)};
}

// total[w, y, x] = sum over t of values[w, t, y, x] wave_y[w, t, y] wave_x[w, t, x]
KERNEL aligned_sum(
    long long n_items, const Complex *__restrict__ values, const Complex *__restrict__ wave_y,
    const Complex *__restrict__ wave_x, Complex *__restrict__ total, int n_frames, int my, int mx
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

// partial[axis, w, t, band, lane]: part of some rows in the gradient over 4 pi, every LANES-th value of each.
KERNEL alignment_gradient(
    long long n_items, const Complex *__restrict__ values, const Complex *__restrict__ wave_y,
    const Complex *__restrict__ wave_x, const float *__restrict__ ky, const float *__restrict__ kx,
    const Complex *__restrict__ pull, float *__restrict__ partial, int n_frames, int n_bands, int my, int mx
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int lane = item % LANES, y0 = item / LANES % n_bands * BAND_ROWS;
    const long long of_frame = item / LANES / n_bands, w = of_frame / n_frames;
    float along_y = 0, along_x = 0;
    for (int y = y0; y < min(y0 + BAND_ROWS, my); ++y) {
        const Complex up = wave_y[of_frame * my + y];
        const Complex *row = values + (of_frame * my + y) * mx, *row_of_pull = pull + (w * my + y) * mx;
        float of_row = 0;
        for (int x = lane; x < mx; x += LANES) {
            const Complex shifted = times(row[x], times(up, wave_x[of_frame * mx + x]));
            // d|A|^2/ds = 2 Re(conj(A) (-2 pi i k) G) = 4 pi k Im(conj(A) G); a frame's own part is real.
            const float slope = row_of_pull[x].re * shifted.im - row_of_pull[x].im * shifted.re;
            of_row += slope;
            along_x += slope * kx[x];
        }
        along_y += of_row * ky[y];
    }
    partial[item] = along_y;
    partial[n_items + item] = along_x;
}
