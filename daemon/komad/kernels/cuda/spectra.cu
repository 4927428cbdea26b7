// Filters over spectra, as kernels/cpu/spectra.py.

// total[y, x] += spectrum[y, x] * table at |k|
KERNEL add_filtered(
    long long n_items, Complex *__restrict__ total, const Complex *__restrict__ spectrum, const float *__restrict__ ky,
    const float *__restrict__ kx, const float *__restrict__ table, float per_step, int n_table, int mx
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const float y = ky[item / mx], x = kx[item % mx];
    const float position = fminf(sqrtf(y * y + x * x) * per_step, (float)(n_table - 1));
    const int i = min((int)position, n_table - 2);
    const float fraction = position - (float)i;
    const float factor = table[i] + fraction * (table[i + 1] - table[i]);
    const Complex before = total[item], added = spectrum[item];
    total[item] = {before.re + added.re * factor, before.im + added.im * factor};
}
