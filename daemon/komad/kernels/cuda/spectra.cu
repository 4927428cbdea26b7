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

// partial[n, ring, lane]: sum of every RING_LANES-th coefficient of a ring of picture n. `plan`: where each ring begins,
// and where the last one ends, in the list of coefficients that follows.
KERNEL ring_sums(
    long long n_items, const float *__restrict__ pictures, const int *__restrict__ plan, int n_rings, int n_coefficients,
    double *__restrict__ partial
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int lane = item % RING_LANES, ring = item / RING_LANES % n_rings;
    const float *picture = pictures + item / RING_LANES / n_rings * n_coefficients;
    const int *coefficients = plan + n_rings + 1;
    double sum = 0;
    for (int i = plan[ring] + lane; i < plan[ring + 1]; i += RING_LANES) sum += picture[coefficients[i]];
    partial[item] = sum;
}
