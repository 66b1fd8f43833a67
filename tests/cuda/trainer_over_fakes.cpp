// The trainer's work for a CUDA device as g++ compiles it: its kernels run on emulated blocks, over the fake CUDA runtime.
// With the fake of cuBLAS and the rest of the trainer as it is, this makes the program sp_trainer_over_fakes. No device is involved.
#include "support/emulated_block.hpp"

#include "ranks/cuda/group_work.cu"
