// What all kernels share. One thread does one item; the items are counted from 0 along one axis.
//
// COUNT is the type of a pixel as the camera wrote it, given when a module is compiled.

#ifndef KOMAD_COMMON
#define KOMAD_COMMON

#ifndef ITEM  // the host build of the tests counts the items itself
#define ITEM (blockIdx.x * (long long)blockDim.x + threadIdx.x)
#endif
#define KERNEL extern "C" __global__ void

struct Complex {  // complex64
    float re;
    float im;
};

#endif
