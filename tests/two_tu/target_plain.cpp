// A translation unit compiled without AVX and FMA.
// What it computes is compared with that of the other one.
#include "delta_of_rows.hpp"

std::vector<float> plain_floats() { return delta_of_rows<float>(); }
std::vector<double> plain_doubles() { return delta_of_rows<double>(); }
