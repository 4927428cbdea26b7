// The fused pass: displacement and accumulation of a group of corrected frames into the running sums.
//
// Positions, their rounding to 1/256 pixel, and the blocks of 4 x 8 pixels that share one are those of
// kernels/cpu/fused.py, so that both sides give the same picture.

#include "common.cuh"

#define TAPS 6
#define STEPS 256
#define TILE_Y 32
#define TILE_X 128
#define BLOCK_Y 4
#define BLOCK_X 8

struct Field {  // how far from each corner of a tile its content comes: upper and lower, left and right
    double corner[4];
};

struct Place {
    int y0, x0;          // first pixel of the tile
    int height, width;   // pixels
    int step_y, step_x;  // distance between the nodes; the last node is at the last pixel
};

__device__ inline Place place_of(int y, int x, int ny, int nx) {
    Place place;
    place.y0 = y / TILE_Y * TILE_Y;
    place.x0 = x / TILE_X * TILE_X;
    place.height = min(TILE_Y, ny - place.y0);
    place.width = min(TILE_X, nx - place.x0);
    place.step_y = min(TILE_Y, ny - 1 - place.y0);
    place.step_x = min(TILE_X, nx - 1 - place.x0);
    return place;
}

// Content moves by +shift, so the value at y comes from y - shift.
__device__ inline Field field_of(const float *shifts, int t, Place place, int nodes_y, int nodes_x, int axis) {
    const int row = place.y0 / TILE_Y, column = place.x0 / TILE_X;
    const float *upper = shifts + (((long long)t * nodes_y + row) * nodes_x + column) * 2 + axis;
    const float *lower = upper + (long long)nodes_x * 2;
    Field field = {{-(double)upper[0], -(double)upper[2], -(double)lower[0], -(double)lower[2]}};
    return field;
}

// Bilinear between the nodes: v goes from row to row, u from column to column, both from 0 to 1.
__device__ inline double between(Field f, double v, double u) {
    const double left = f.corner[0] + v * (f.corner[2] - f.corner[0]);
    const double right = f.corner[1] + v * (f.corner[3] - f.corner[1]);
    return left + u * (right - left);
}

__device__ inline int whole_of(Field f) {
    return (int)floor(fmin(fmin(f.corner[0], f.corner[1]), fmin(f.corner[2], f.corner[3])));
}

__device__ inline int last_of(Field f, int whole) {
    const double most = fmax(fmax(f.corner[0], f.corner[1]), fmax(f.corner[2], f.corner[3]));
    return (int)((most - whole) * STEPS + 0.5);
}

__device__ inline int reflect(int index, int n) {
    index %= 2 * n;
    if (index < 0) index += 2 * n;
    return index < n ? index : 2 * n - 1 - index;
}

__device__ inline bool is_inside(double y, double x, int ny, int nx) {
    return -0.5 <= y && y < ny - 0.5 && -0.5 <= x && x < nx - 0.5;
}

__device__ inline bool covers(Field from_y, Field from_x, Place place, int y, int x, int ny, int nx) {
    const double v = (y - place.y0) / (double)max(1, place.step_y), u = (x - place.x0) / (double)max(1, place.step_x);
    return is_inside(y + between(from_y, v, u), x + between(from_x, v, u), ny, nx);
}

// The value of a moved frame at one pixel.
__device__ float moved_pixel(
    const float *plane, Field from_y, Field from_x, Place place, int y, int x, int ny, int nx, const float *weights
) {
    const int whole_y = whole_of(from_y), last_y = last_of(from_y, whole_y);
    const int whole_x = whole_of(from_x), last_x = last_of(from_x, whole_x);
    const double per_row = 1.0 / max(1, place.step_y), per_column = 1.0 / max(1, place.step_x);
    const double middle_y = 0.5 * (BLOCK_Y - 1), middle_x = 0.5 * (BLOCK_X - 1);
    const int i = (y - place.y0) / BLOCK_Y * BLOCK_Y, j = (x - place.x0) / BLOCK_X * BLOCK_X;

    const double v = fmin((i + middle_y) * per_row, 1.0);
    const double first_y = between(from_y, v, 0.0) - whole_y;
    const double slope_y = (between(from_y, v, 1.0) - whole_y - first_y) * per_column;
    const int step_y = min(max((int)((first_y + slope_y * (j + middle_x)) * STEPS + 0.5), 0), last_y);
    const float *weights_y = weights + step_y % STEPS * TAPS;

    // Row of the tile to which row 0 of the source goes, at the left and at the right end.
    const double left_y = whole_y - 2 - between(from_y, 0.5, 0.0), right_y = whole_y - 2 - between(from_y, 0.5, 1.0);
    const int first_row = y - place.y0 + step_y / STEPS;
    int block = -1, step_x = 0;
    float value = 0;
    for (int a = 0; a < TAPS; ++a) {
        const int row = first_row + a;  // of the source
        if (row / BLOCK_Y != block) {
            block = row / BLOCK_Y;
            const double at = block * BLOCK_Y + middle_y;
            const double left = between(from_x, fmin(fmax((left_y + at) * per_row, 0.0), 1.0), 0.0) - whole_x;
            const double right = between(from_x, fmin(fmax((right_y + at) * per_row, 0.0), 1.0), 1.0) - whole_x;
            const double slope = (right - left) * per_column;
            step_x = min(max((int)((left + slope * (j + middle_x)) * STEPS + 0.5), 0), last_x);
        }
        const float *weights_x = weights + step_x % STEPS * TAPS;
        const float *line = plane + (long long)reflect(place.y0 + whole_y - 2 + row, ny) * nx;
        const int from = x + whole_x - 2 + step_x / STEPS;
        float across = 0;
        if (from >= 0 && from + TAPS <= nx) {
            for (int b = 0; b < TAPS; ++b) across += weights_x[b] * line[from + b];
        } else {
            for (int b = 0; b < TAPS; ++b) across += weights_x[b] * line[reflect(from + b, nx)];
        }
        value += weights_y[a] * across;
    }
    return value;
}

// n_covering[y, x]: how many of the frames cover each pixel.
KERNEL count_covering(
    long long n_items, const float *shifts, const int *used, int n_used, int nodes_y, int nodes_x, int ny, int nx,
    int *n_covering
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y = item / nx, x = item % nx;
    const Place place = place_of(y, x, ny, nx);
    int count = 0;
    for (int k = 0; k < n_used; ++k) {
        const Field from_y = field_of(shifts, used[k], place, nodes_y, nodes_x, 0);
        const Field from_x = field_of(shifts, used[k], place, nodes_y, nodes_x, 1);
        count += covers(from_y, from_x, place, y, x, ny, nx);
    }
    n_covering[item] = count;
}

// sums[r, p] += sum over the group of coefficient[t, r] * moved frame t; plain[p] the same with coefficients of one.
// A frame that does not cover a pixel which others do is left out there.
KERNEL accumulate(
    long long n_items, const float *planes, const float *shifts, const float *coefficients, const int *used, int n_group,
    const int *n_covering, int n_used, const float *weights, int nodes_y, int nodes_x, int ny, int nx, float *sums,
    float *plain
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y = item / nx, x = item % nx;
    const Place place = place_of(y, x, ny, nx);
    const bool is_open = n_covering[item] > 0 && n_covering[item] < n_used;
    float total[N_SUMS], all = 0;
    for (int r = 0; r < N_SUMS; ++r) total[r] = 0;
    for (int g = 0; g < n_group; ++g) {
        const int t = used[g];
        const Field from_y = field_of(shifts, t, place, nodes_y, nodes_x, 0);
        const Field from_x = field_of(shifts, t, place, nodes_y, nodes_x, 1);
        if (is_open && !covers(from_y, from_x, place, y, x, ny, nx)) continue;
        const float value =
            moved_pixel(planes + g * n_items, from_y, from_x, place, y, x, ny, nx, weights);
        for (int r = 0; r < N_SUMS; ++r) total[r] += coefficients[(long long)t * N_SUMS + r] * value;
        all += value;
    }
    for (int r = 0; r < N_SUMS; ++r) sums[r * n_items + item] += total[r];
    plain[item] += all;
}

// level[tile]: mean of the frames that cover the pixels of a tile.
KERNEL tile_levels(
    long long n_items, const float *plain, const int *n_covering, int tiles_x, int ny, int nx, float *level
) {
    const long long tile = ITEM;
    if (tile >= n_items) return;
    const int y0 = tile / tiles_x * TILE_Y, x0 = tile % tiles_x * TILE_X;
    double total = 0;
    long long n_values = 0;
    for (int y = y0; y < min(y0 + TILE_Y, ny); ++y) {
        for (int x = x0; x < min(x0 + TILE_X, nx); ++x) {
            const long long p = (long long)y * nx + x;
            // A pixel that no frame covers has all frames' reflections in it.
            if (n_covering[p] > 0) {
                total += plain[p];
                n_values += n_covering[p];
            }
        }
    }
    level[tile] = (float)(total / (n_values > 0 ? n_values : 1));
}

// Puts the mean of the frames that cover a pixel in place of those that do not; see `_fill_in` of the CPU's pass.
KERNEL fill_in(
    long long n_items, const float *shifts, const float *coefficients, const int *used, int n_used,
    const int *n_covering, const float *plain, const float *level, int tiles_x, int nodes_y, int nodes_x, int ny, int nx,
    float *sums
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int count = n_covering[item];
    if (count == 0 || count == n_used) return;
    const int y = item / nx, x = item % nx;
    const Place place = place_of(y, x, ny, nx);
    const float middle = level[y / TILE_Y * tiles_x + x / TILE_X];
    const float trust = fminf(1.0f, (float)(count / (double)(n_used - count)));
    const float value = middle + trust * (plain[item] / count - middle);
    for (int k = 0; k < n_used; ++k) {
        const int t = used[k];
        const Field from_y = field_of(shifts, t, place, nodes_y, nodes_x, 0);
        const Field from_x = field_of(shifts, t, place, nodes_y, nodes_x, 1);
        if (covers(from_y, from_x, place, y, x, ny, nx)) continue;
        for (int r = 0; r < N_SUMS; ++r) sums[r * n_items + item] += coefficients[(long long)t * N_SUMS + r] * value;
    }
}
