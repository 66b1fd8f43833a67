// A translation unit compiled with AVX2 and FMA.
// What it computes is compared with that of the other one.
#include "delta_of_rows.hpp"

std::vector<float> fused_floats() { return delta_of_rows<float>(); }
std::vector<double> fused_doubles() { return delta_of_rows<double>(); }
