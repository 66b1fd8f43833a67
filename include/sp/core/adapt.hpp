// Foreign tensors as views: a trait to specialise, and importers for mdspan, DLPack, packed QKV and byte-stride tensors.
// Types are recognised by their members; rank, element type, device, null and alignment are checked, and errors name both sides.
#pragma once

#include <sp/core/adapt/dlpack.hpp>
#include <sp/core/adapt/mdspan.hpp>
#include <sp/core/adapt/packed_qkv.hpp>
#include <sp/core/adapt/reversed.hpp>
#include <sp/core/adapt/tensor_traits.hpp>
