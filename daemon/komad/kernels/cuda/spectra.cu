// Filters over spectra, as kernels/cpu/spectra.py.

#include "common.cuh"

// total[y, x] += spectrum[y, x] * table at |k|
KERNEL add_filtered(
    long long n_items, Complex *total, const Complex *spectrum, const float *ky, const float *kx, const float *table,
    float per_step, int n_table, int mx
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const float y = ky[item / mx], x = kx[item % mx];
    const float position = fminf(sqrtf(y * y + x * x) * per_step, (float)(n_table - 1));
    const int i = min((int)position, n_table - 2);
    const float fraction = position - (float)i;
    const float factor = table[i] + fraction * (table[i + 1] - table[i]);
    total[item].re += spectrum[item].re * factor;
    total[item].im += spectrum[item].im * factor;
}
