// The fused pass: displacement and accumulation of a group of corrected frames into the running sums.
//
// Positions, their rounding to 1/STEPS pixel, and the blocks of BLOCK_Y x BLOCK_X pixels that share one are those of
// kernels/cpu/fused.py, so that both sides give the same picture. Positions are in double precision and therefore found
// once for each block; only at the edges of the frames are those of single pixels asked for.

// Blocks of rows of the source from which the rows of one block come.
#define BLOCKS_ACROSS ((2 * BLOCK_Y + TAPS - 3) / BLOCK_Y + 1)

struct Field {  // how far from each corner of a tile its content comes: upper and lower, left and right
    float corner[4];
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
    return {{-upper[0], -upper[2], -lower[0], -lower[2]}};
}

// Bilinear between the nodes: v goes from row to row, u from column to column, both from 0 to 1.
__device__ inline double between(Field f, double v, double u) {
    const double left = f.corner[0] + v * ((double)f.corner[2] - f.corner[0]);
    const double right = f.corner[1] + v * ((double)f.corner[3] - f.corner[1]);
    return left + u * (right - left);
}

__device__ inline float least_of(Field f) {
    return fminf(fminf(f.corner[0], f.corner[1]), fminf(f.corner[2], f.corner[3]));
}

__device__ inline float most_of(Field f) {
    return fmaxf(fmaxf(f.corner[0], f.corner[1]), fmaxf(f.corner[2], f.corner[3]));
}

__device__ inline int reflect(int index, int n) {
    if (index >= 0 && index < n) return index;
    index %= 2 * n;
    if (index < 0) index += 2 * n;
    return index < n ? index : 2 * n - 1 - index;
}

__device__ inline bool is_inside(double y, double x, int ny, int nx) {
    return -0.5 <= y && y < ny - 0.5 && -0.5 <= x && x < nx - 0.5;
}

__device__ inline bool covers(Field from_y, Field from_x, Place place, int y, int x, int ny, int nx) {
    // Hardly a tile lies so near to the edges that its pixels must be looked at; half a pixel is left for rounding.
    if (place.y0 + least_of(from_y) >= 0 && place.y0 + place.height + most_of(from_y) <= ny &&
        place.x0 + least_of(from_x) >= 0 && place.x0 + place.width + most_of(from_x) <= nx) {
        return true;
    }
    const double v = (y - place.y0) / (double)max(1, place.step_y), u = (x - place.x0) / (double)max(1, place.step_x);
    return is_inside(y + between(from_y, v, u), x + between(from_x, v, u), ny, nx);
}

// From where in a frame a block of pixels comes, in 1/STEPS pixel. Rows of the source have positions along x of their own,
// shared by BLOCK_Y of them; the block needs rows of a few such blocks.
struct Source {
    int y;
    int row;  // of its first block to which the first tap of the block's first row goes
    int x[BLOCKS_ACROSS];
};

// sources[g, block_y, block_x] of each frame of a group
KERNEL positions(
    long long n_items, const float *__restrict__ shifts, const int *__restrict__ used, int nodes_y, int nodes_x, int ny,
    int nx, int blocks_y, int blocks_x, Source *__restrict__ sources
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y = item / blocks_x % blocks_y * BLOCK_Y, x = item % blocks_x * BLOCK_X;
    const int t = used[item / blocks_x / blocks_y];
    const Place place = place_of(y, x, ny, nx);
    const Field from_y = field_of(shifts, t, place, nodes_y, nodes_x, 0);
    const Field from_x = field_of(shifts, t, place, nodes_y, nodes_x, 1);
    const int whole_y = (int)floorf(least_of(from_y)), whole_x = (int)floorf(least_of(from_x));
    const int last_y = (int)(((double)most_of(from_y) - whole_y) * STEPS + 0.5);
    const int last_x = (int)(((double)most_of(from_x) - whole_x) * STEPS + 0.5);
    const double per_row = 1.0 / max(1, place.step_y), per_column = 1.0 / max(1, place.step_x);
    const double middle_y = 0.5 * (BLOCK_Y - 1), middle_x = 0.5 * (BLOCK_X - 1);
    const int i = y - place.y0, j = x - place.x0;

    const double v = fmin((i + middle_y) * per_row, 1.0);
    const double first = between(from_y, v, 0.0) - whole_y;
    const double slope = (between(from_y, v, 1.0) - whole_y - first) * per_column;
    const int step_y = min(max((int)((first + slope * (j + middle_x)) * STEPS + 0.5), 0), last_y);

    // Row of the tile to which row 0 of the source goes, at the left and at the right end.
    const double left_y = whole_y - 2 - between(from_y, 0.5, 0.0), right_y = whole_y - 2 - between(from_y, 0.5, 1.0);
    const int first_row = i + step_y / STEPS;  // of the source
    Source source;
    source.y = whole_y * STEPS + step_y;
    source.row = first_row % BLOCK_Y;
    for (int b = 0; b < BLOCKS_ACROSS; ++b) {
        const double at = (first_row / BLOCK_Y + b) * BLOCK_Y + middle_y;
        const double left = between(from_x, fmin(fmax((left_y + at) * per_row, 0.0), 1.0), 0.0) - whole_x;
        const double right = between(from_x, fmin(fmax((right_y + at) * per_row, 0.0), 1.0), 1.0) - whole_x;
        const double position = left + (right - left) * per_column * (j + middle_x);
        source.x[b] = whole_x * STEPS + min(max((int)(position * STEPS + 0.5), 0), last_x);
    }
    sources[item] = source;
}

// The whole pixels of a position.
__device__ inline int whole_of(int position) {
    return (position - (position % STEPS + STEPS) % STEPS) / STEPS;
}

// The value of a moved frame at one pixel.
__device__ inline float moved_pixel(
    const float *__restrict__ plane, const Source *__restrict__ source, int y, int x, int ny, int nx,
    const float *__restrict__ weights
) {
    const int whole_y = whole_of(source->y), first = y % BLOCK_Y + source->row;
    const float *weights_y = weights + (source->y - whole_y * STEPS) * TAPS;
    float weights_x[TAPS] = {}, value = 0;
    int block = -1, from = 0;
    for (int a = 0; a < TAPS; ++a) {
        if ((first + a) / BLOCK_Y != block) {
            block = (first + a) / BLOCK_Y;
            const int position = source->x[block], whole = whole_of(position);
            from = x + whole - 2;
            for (int b = 0; b < TAPS; ++b) weights_x[b] = weights[(position - whole * STEPS) * TAPS + b];
        }
        const float *line = plane + (long long)reflect(y + whole_y - 2 + a, ny) * nx;
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
    long long n_items, const float *__restrict__ shifts, const int *__restrict__ used, int n_used, int nodes_y, int nodes_x,
    int ny, int nx, int *__restrict__ n_covering
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
    long long n_items, const float *__restrict__ planes, const Source *__restrict__ sources,
    const float *__restrict__ shifts, const float *__restrict__ coefficients, const int *__restrict__ used, int n_group,
    const int *__restrict__ n_covering, int n_used, const float *__restrict__ weights, int nodes_y, int nodes_x, int ny,
    int nx, int blocks_y, int blocks_x, float *__restrict__ sums, float *__restrict__ plain
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int y = item / nx, x = item % nx;
    const Place place = place_of(y, x, ny, nx);
    const bool is_open = n_covering[item] > 0 && n_covering[item] < n_used;
    const Source *source = sources + (long long)(y / BLOCK_Y) * blocks_x + x / BLOCK_X;
    // Frame is added after frame, so that it makes no difference how many of them come in a group.
    float total[N_SUMS], all = plain[item];
    for (int r = 0; r < N_SUMS; ++r) total[r] = sums[r * n_items + item];
    for (int g = 0; g < n_group; ++g) {
        const int t = used[g];
        if (is_open) {
            const Field from_y = field_of(shifts, t, place, nodes_y, nodes_x, 0);
            const Field from_x = field_of(shifts, t, place, nodes_y, nodes_x, 1);
            if (!covers(from_y, from_x, place, y, x, ny, nx)) continue;
        }
        const float *plane = planes + g * n_items;
        const float value =
            moved_pixel(plane, source + (long long)g * blocks_y * blocks_x, y, x, ny, nx, weights);
        for (int r = 0; r < N_SUMS; ++r) total[r] += coefficients[(long long)t * N_SUMS + r] * value;
        all += value;
    }
    for (int r = 0; r < N_SUMS; ++r) sums[r * n_items + item] = total[r];
    plain[item] = all;
}

// partial[tile, lane]: sum of the frames that cover the pixels of a tile, in every LANES-th column, and how many values.
KERNEL tile_sums(
    long long n_items, const float *__restrict__ plain, const int *__restrict__ n_covering, int tiles_x, int ny, int nx,
    double *__restrict__ partial
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const int lane = item % LANES;
    const long long tile = item / LANES;
    const int y0 = tile / tiles_x * TILE_Y, x0 = tile % tiles_x * TILE_X;
    double total = 0;
    long long n_values = 0;
    for (int y = y0; y < min(y0 + TILE_Y, ny); ++y) {
        for (int x = x0 + lane; x < min(x0 + TILE_X, nx); x += LANES) {
            const long long p = (long long)y * nx + x;
            // A pixel that no frame covers has all frames' reflections in it.
            if (n_covering[p] > 0) {
                total += plain[p];
                n_values += n_covering[p];
            }
        }
    }
    partial[item] = total;
    partial[n_items + item] = (double)n_values;
}

// Puts the mean of the frames that cover a pixel in place of those that do not; see `_fill_in` of the CPU's pass.
KERNEL fill_in(
    long long n_items, const float *__restrict__ shifts, const float *__restrict__ coefficients,
    const int *__restrict__ used, int n_used, const int *__restrict__ n_covering, const float *__restrict__ plain,
    const float *__restrict__ level, int tiles_x, int nodes_y, int nodes_x, int ny, int nx, float *__restrict__ sums
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
