// Raw counts to corrected pixels, a group of frames at a time.

struct Spot {  // as kernels/cpu/filling.py, SPOT
    int x;
    int frame;
    float keep;
    float summand;
    int top;
    int left;
};

// planes[g, p] = frames[g, p] gain[p] + offset[p]
KERNEL calibrate(
    long long n_items, const COUNT *__restrict__ frames, const float *__restrict__ gain, const float *__restrict__ offset,
    float *__restrict__ planes, int n_frames
) {
    const long long p = ITEM;
    if (p >= n_items) return;
    const float factor = gain[p], summand = offset[p];
    for (int g = 0; g < n_frames; ++g) {
        planes[g * n_items + p] = (float)frames[g * n_items + p] * factor + summand;
    }
}

// Puts what stands in for each outlier into the planes, as `replaced_value` of kernels/cpu/filling.py does; one item per
// outlier and frame of the group.
KERNEL fill(
    long long n_items, const COUNT *__restrict__ frames, const float *__restrict__ gain, const float *__restrict__ offset,
    float *__restrict__ planes, const int *__restrict__ row, const Spot *__restrict__ spots,
    const float *__restrict__ scale, int draw, int first_frame, int n_spots, int ny, int nx
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    const long long k = item % n_spots;
    const int g = item / n_spots, t = first_frame + g;
    const Spot spot = spots[k];
    if (spot.frame != ALL_FRAMES && spot.frame != t) return;
    const long long plane = (long long)g * ny * nx;
    const COUNT *frame = frames + plane;
    const float *weight = scale + k * WINDOW * WINDOW;
    float value = 0;
    if (draw) {
        // A multiplicative hash over outlier and frame, as on the CPU. From that cell on, the first good one.
        long long cell = (((k * 2654435761LL + t * 2246822519LL) >> 16 & 0xFFFF) * (WINDOW * WINDOW)) >> 16;
        for (int n = 0; n < WINDOW * WINDOW; ++n) {
            if (weight[cell] != 0) {
                const long long p = (spot.top + cell / WINDOW) * (long long)nx + spot.left + cell % WINDOW;
                value = (1 - spot.keep) * ((float)frame[p] * gain[p] + offset[p]);
                break;
            }
            cell = (cell + 1) % (WINDOW * WINDOW);
        }
    } else {
        value = spot.summand;
        for (int i = 0; i < WINDOW; ++i) {
            for (int j = 0; j < WINDOW; ++j) {
                const float part = weight[i * WINDOW + j];
                if (part != 0) value += (float)frame[(spot.top + i) * (long long)nx + spot.left + j] * part;
            }
        }
    }
    const long long p = (long long)row[k] * nx + spot.x;
    if (spot.keep > 0) value += spot.keep * ((float)frame[p] * gain[p] + offset[p]);
    planes[plane + p] = value;
}

// binned[g, Y, X] = sum over a block of factor x factor pixels
KERNEL bin(
    long long n_items, const float *__restrict__ planes, float *__restrict__ binned, int factor, int ny, int nx, int my,
    int mx
) {
    const long long item = ITEM;
    if (item >= n_items) return;
    // One thread after the other: what a load leaves over of its line, the next ones find in the L1 cache.
    const int X = item % mx, Y = item / mx % my;
    const float *corner = planes + (item / ((long long)mx * my) * ny + (long long)Y * factor) * nx + X * factor;
    float total = 0;
    for (int x = 0; x < factor; ++x) {
        float column = 0;
        for (int y = 0; y < factor; ++y) column += corner[(long long)y * nx + x];
        total += column;
    }
    binned[item] = total;
}
