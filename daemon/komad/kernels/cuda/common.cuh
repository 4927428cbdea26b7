// What all kernels share: device.py puts it, and the sizes that both sides know, before each source.
//
// One thread does one item; the items are counted from 0 along one axis. Threads beside each other read what lies beside
// each other: items go along the rows of a picture, and where a row is summed up, LANES threads take every LANES-th
// value of it, and what they found is added afterwards. Single precision but where a position or a large sum needs more:
// most devices have a sixty-fourth of their speed for double.
//
// COUNT is the type of a pixel as the camera or the stack sum has it, given when a module is compiled.

#ifndef ITEM  // the host build of the tests counts the items itself
#define ITEM (blockIdx.x * (long long)blockDim.x + threadIdx.x)
#endif
#define KERNEL extern "C" __global__ void

struct __align__(8) Complex {  // complex64; aligned, so that it is read in one go
    float re;
    float im;
};
