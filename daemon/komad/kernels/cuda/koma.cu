// The running total of stack sums in whole numbers, and what is read of a movie's own sum: kernels/cpu/koma.py.

// A stack sum in units of its mean.
__device__ inline float relative(
    const COUNT *raw, const float *gain, const float *offset, float scale, float offset_scale, long long p
) {
    // Each step is rounded, as on the CPU: multiplied and added in one step, the total would be another one.
    return __fadd_rn(__fmul_rn(__fmul_rn((float)raw[p], gain[p]), scale), __fmul_rn(offset[p], offset_scale));
}

// Nearest whole number within the limits; what is no number becomes the lower one.
__device__ inline int whole(float value, float limit) {
    value = value > -limit ? value : -limit;
    value = value < limit ? value : limit;
    return (int)floorf(__fadd_rn(value, 0.5f));
}

// total += sign times the stack sum in whole numbers.
KERNEL add_whole(
    long long n_items, int *__restrict__ total, const COUNT *__restrict__ raw, const float *__restrict__ gain,
    const float *__restrict__ offset, float scale, float offset_scale, float limit, int sign
) {
    const long long p = ITEM;
    if (p >= n_items) return;
    total[p] += sign * whole(relative(raw, gain, offset, scale, offset_scale, p), limit);
}

// Mixes each bad pixel with the mean of the good ones among the 5 x 5 around it, or with `unit` where there is none.
KERNEL mix_bad(
    long long n_items, int *__restrict__ total, const COUNT *__restrict__ raw, const float *__restrict__ gain,
    const float *__restrict__ offset, float scale, float offset_scale, float limit, int sign, int unit,
    const int *__restrict__ row, const int *__restrict__ column, const float *__restrict__ keep,
    const unsigned char *__restrict__ is_bad, int ny, int nx
) {
    const long long j = ITEM;
    if (j >= n_items) return;
    const int y = row[j], x = column[j];
    float fill = 0, n_good = 0;
    for (int yy = max(y - 2, 0); yy < min(y + 3, ny); ++yy) {
        for (int xx = max(x - 2, 0); xx < min(x + 3, nx); ++xx) {
            const long long p = (long long)yy * nx + xx;
            if (!is_bad[p]) {
                fill = __fadd_rn(fill, (float)whole(relative(raw, gain, offset, scale, offset_scale, p), limit));
                n_good = __fadd_rn(n_good, 1.0f);
            }
        }
    }
    fill = n_good > 0 ? __fdiv_rn(fill, n_good) : (float)unit;
    const long long p = (long long)y * nx + x;
    const int own = whole(relative(raw, gain, offset, scale, offset_scale, p), limit);
    const float mixed = __fadd_rn(__fmul_rn(keep[j], (float)own), __fmul_rn(__fadd_rn(1.0f, -keep[j]), fill));
    total[p] += sign * (whole(mixed, limit) - own);
}

struct Pair {  // total * inverse - 1 and own - 1, and whether the movie's own pixel is good; all 0 if not
    float shared;
    float own;
    float good;
};

__device__ inline Pair pair_at(
    const int *total, float inverse, const COUNT *raw, const float *gain, const float *offset, float scale,
    float offset_scale, const unsigned char *is_bad, long long p
) {
    if (is_bad[p]) return {0, 0, 0};
    return {(float)total[p] * inverse - 1, relative(raw, gain, offset, scale, offset_scale, p) - 1, 1};
}

// columns[:, segment, x]: sums of the pairs along `height` rows.
KERNEL column_sums(
    long long n_items, const int *__restrict__ total, float inverse, const COUNT *__restrict__ raw,
    const float *__restrict__ gain, const float *__restrict__ offset, float scale, float offset_scale,
    const unsigned char *__restrict__ is_bad, int height, int ny, int nx, float *__restrict__ columns
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int x = item % nx, y0 = item / nx * height;
    Pair sum = {0, 0, 0};
    for (int y = y0; y < min(y0 + height, ny); ++y) {
        const long long p = (long long)y * nx + x;
        const Pair pair = pair_at(total, inverse, raw, gain, offset, scale, offset_scale, is_bad, p);
        sum.shared += pair.shared;
        sum.own += pair.own;
        sum.good += pair.good;
    }
    columns[item] = sum.shared;
    columns[n_items + item] = sum.own;
    columns[2 * n_items + item] = sum.good;
}

// partial[:, y, segment, lane]: sums of the pairs along `width` columns, every LANES-th.
KERNEL row_sums(
    long long n_items, const int *__restrict__ total, float inverse, const COUNT *__restrict__ raw,
    const float *__restrict__ gain, const float *__restrict__ offset, float scale, float offset_scale,
    const unsigned char *__restrict__ is_bad, int n_segments, int width, int nx, float *__restrict__ partial
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int lane = item % LANES, x0 = item / LANES % n_segments * width;
    const long long row = item / LANES / n_segments * nx;
    Pair sum = {0, 0, 0};
    for (int x = x0 + lane; x < min(x0 + width, nx); x += LANES) {
        const Pair pair = pair_at(total, inverse, raw, gain, offset, scale, offset_scale, is_bad, row + x);
        sum.shared += pair.shared;
        sum.own += pair.own;
        sum.good += pair.good;
    }
    partial[item] = sum.shared;
    partial[n_items + item] = sum.own;
    partial[2 * n_items + item] = sum.good;
}

// residue[i, x] = own - 1 without its lines, 0 at bad pixels; i-th of the rows that are given.
KERNEL own_residue(
    long long n_items, const COUNT *__restrict__ raw, const float *__restrict__ gain, const float *__restrict__ offset,
    float scale, float offset_scale, const unsigned char *__restrict__ is_bad, const float *__restrict__ of_rows,
    const float *__restrict__ of_columns, const int *__restrict__ rows, int nx, float *__restrict__ residue
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y = rows[item / nx], x = item % nx;
    const long long p = (long long)y * nx + x;
    residue[item] =
        is_bad[p] ? 0 : relative(raw, gain, offset, scale, offset_scale, p) - 1 - of_rows[y] - of_columns[x];
}
