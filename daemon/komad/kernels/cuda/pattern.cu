// The pattern that a running total shares with a movie, and the noise that frames share: kernels/cpu/koma.py.
//
// Pictures here are made of bands: `height` rows, and `reach` more above and below them, mirrored at the edges.

__device__ inline int mirrored(int index, int length) {
    if (index < 0) index = -index;
    if (index >= length) index = 2 * (length - 1) - index;
    return min(max(index, 0), length - 1);
}

// residue[i, x] = total * inverse - 1 without its lines; i-th of the rows that are given.
KERNEL shared_residue(
    long long n_items, const int *__restrict__ total, float inverse, const float *__restrict__ of_rows,
    const float *__restrict__ of_columns, const int *__restrict__ rows, int nx, float *__restrict__ residue
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y = rows[item / nx], x = item % nx;
    residue[item] = (float)total[(long long)y * nx + x] * inverse - 1 - of_rows[y] - of_columns[x];
}

// smooth = what the taps make of the picture along its rows.
KERNEL smooth_along_rows(
    long long n_items, const float *__restrict__ picture, const float *__restrict__ taps, int reach, int nx,
    float *__restrict__ smooth
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int x = item % nx;
    const float *row = picture + (item - x);
    float value = taps[reach] * row[x];
    for (int k = 1; k <= reach; ++k) {
        value += taps[reach - k] * (row[mirrored(x - k, nx)] + row[mirrored(x + k, nx)]);
    }
    smooth[item] = value;
}

// sharp = picture - what the taps make of `smooth` along its columns; of the rows of each band, without the margins.
KERNEL take_smooth_off(
    long long n_items, const float *__restrict__ picture, const float *__restrict__ smooth,
    const float *__restrict__ taps, int reach, int height, int nx, float *__restrict__ sharp
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const long long row = item / nx, band = row / height;
    const long long p = (row + (2 * band + 1) * reach) * nx + item % nx;
    float value = taps[reach] * smooth[p];
    for (int k = 1; k <= reach; ++k) {
        value += taps[reach - k] * (smooth[p - (long long)k * nx] + smooth[p + (long long)k * nx]);
    }
    sharp[item] = picture[p] - value;
}

// partial[:, i, lane]: shared², shared * own, own² and number of good pixels in every LANES-th column of i-th row given.
KERNEL products(
    long long n_items, const float *__restrict__ shared, const float *__restrict__ own,
    const unsigned char *__restrict__ is_bad, const int *__restrict__ rows, int nx, float *__restrict__ partial
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int lane = item % LANES;
    const long long i = item / LANES;
    float shared2 = 0, product = 0, own2 = 0, n_good = 0;
    for (int x = lane; x < nx; x += LANES) {
        if (is_bad[(long long)rows[i] * nx + x]) continue;
        const float a = shared[i * nx + x], b = own[i * nx + x];
        shared2 += a * a;
        product += a * b;
        own2 += b * b;
        n_good += 1;
    }
    partial[item] = shared2;
    partial[n_items + item] = product;
    partial[2 * n_items + item] = own2;
    partial[3 * n_items + item] = n_good;
}

// Makes what is sharp the pattern, in place: its lines are added, and bad pixels have none.
KERNEL add_lines(
    long long n_items, float *__restrict__ pattern, float scale, const float *__restrict__ of_rows,
    const float *__restrict__ of_columns, const unsigned char *__restrict__ is_bad, int nx
) {
    const long long p = ITEM;
    if (p >= n_items) return;
    pattern[p] = is_bad[p] ? 0 : scale * pattern[p] + of_rows[p / nx] + of_columns[p % nx];
}

// sums[t, block_y, x]: sums of columns of blocks.
KERNEL block_columns(
    long long n_items, const float *__restrict__ values, int block, int blocks_y, int ny, int nx, float *__restrict__ sums
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y0 = item / nx % blocks_y * block;
    const float *column = values + item / nx / blocks_y * ny * nx + item % nx;
    float sum = 0;
    for (int y = y0; y < min(y0 + block, ny); ++y) sum += column[(long long)y * nx];
    sums[item] = sum;
}

// means[t, block_y, block_x] from them.
KERNEL block_means(
    long long n_items, const float *__restrict__ sums, int block, int blocks_y, int blocks_x, int ny, int nx,
    float *__restrict__ means
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int x0 = item % blocks_x * block, y0 = item / blocks_x % blocks_y * block;
    const int height = min(block, ny - y0), width = min(block, nx - x0);
    float sum = 0;
    for (int x = x0; x < x0 + width; ++x) sum += sums[item / blocks_x * nx + x];
    means[item] = sum / (float)(height * width);
}

// squares[t, block_y, x]: sums of squares of columns of blocks, their means taken off.
KERNEL block_squares(
    long long n_items, const float *__restrict__ values, const float *__restrict__ means, int block, int blocks_y,
    int blocks_x, int ny, int nx, float *__restrict__ squares
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int x = item % nx, y0 = item / nx % blocks_y * block;
    const float mean = means[item / nx * blocks_x + x / block];
    const float *column = values + item / nx / blocks_y * ny * nx + x;
    float sum = 0;
    for (int y = y0; y < min(y0 + block, ny); ++y) {
        const float value = column[(long long)y * nx] - mean;
        sum += value * value;
    }
    squares[item] = sum;
}

// squares[y, x] of the sum over frames, the mean of each block of each frame taken off.
KERNEL square_of_sum(
    long long n_items, const float *__restrict__ values, const float *__restrict__ means, int n_frames, int block,
    int blocks_y, int blocks_x, int nx, float *__restrict__ squares
) {
    const long long p = ITEM;
    if (p >= n_items) return;
    const long long of_block = p / nx / block * blocks_x + p % nx / block;
    float sum = 0;
    for (int t = 0; t < n_frames; ++t) {
        sum += values[t * n_items + p] - means[(long long)t * blocks_y * blocks_x + of_block];
    }
    squares[p] = sum * sum;
}
