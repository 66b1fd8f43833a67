// bf16 and fp16 against an independent decoding and rounding in double: all 65536 values, all ties, both directions.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string_view>

#include <sp/core/dtype.hpp>

namespace test_dtype {
namespace {

struct format {
  int exponent_bits, mantissa_bits;
};
constexpr format bf16_format{8, 7}, fp16_format{5, 10};

/// What the bits mean, from the definition of the format.
double decoded(format f, unsigned bits) {
  int bias = (1 << (f.exponent_bits - 1)) - 1;
  int exponent = int(bits >> f.mantissa_bits) & ((1 << f.exponent_bits) - 1);
  double mantissa = double(bits & ((1u << f.mantissa_bits) - 1));
  double sign = bits & 0x8000u ? -1.0 : 1.0;
  if (exponent == (1 << f.exponent_bits) - 1)
    return mantissa != 0.0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - f.mantissa_bits);
  return sign * std::ldexp(mantissa + std::ldexp(1.0, f.mantissa_bits), exponent - bias - f.mantissa_bits);
}

/// The nearest value of the format, ties to even, by scaling to an integer: no bits of x are looked at.
double rounded(format f, double x) {
  if (x == 0.0 || !std::isfinite(x)) return x;
  int bias = (1 << (f.exponent_bits - 1)) - 1;
  int exponent = std::max(std::ilogb(x), 1 - bias) - f.mantissa_bits;
  double r = std::ldexp(std::nearbyint(std::ldexp(x, -exponent)), exponent);
  double largest = std::ldexp(2.0 - std::ldexp(1.0, -f.mantissa_bits), bias);
  return std::fabs(r) > largest ? std::copysign(std::numeric_limits<double>::infinity(), x) : r;
}

bool same(double a, double b) { return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b)); }

template <class T>
void check_all_bits(format f) {
  int wrong = 0;
  for (unsigned b = 0; b < 65536; ++b) {
    T x = T::from_bits(static_cast<std::uint16_t>(b));
    double expected = decoded(f, b);
    wrong += !same(double(float(x)), expected);
    T back(static_cast<float>(x));
    if (std::isnan(expected))
      wrong += !std::isnan(static_cast<float>(back)) || (back.bits ^ b) & 0x8000u; // the sign and NaN-ness stay
    else
      wrong += back.bits != b || T(expected).bits != b; // from float and from double
  }
  CHECK(wrong == 0);
}

/// Around each pair of neighbours: the tie, and the float and double just beside it.
template <class T>
void check_ties(format f) {
  int wrong = 0;
  for (unsigned b = 0; b + 1 < 0x8000u; ++b) {
    double lower = decoded(f, b), upper = decoded(f, b + 1);
    if (!std::isfinite(lower) || std::isnan(upper)) continue;
    double step = b ? lower - decoded(f, b - 1) : upper;
    double tie = std::isfinite(upper) ? (lower + upper) / 2 : lower + step / 2;
    for (double sign : {1.0, -1.0}) {
      for (double x : {tie, std::nextafter(tie, 0.0), std::nextafter(tie, 1e300)})
        wrong += !same(static_cast<float>(T(sign * x)), rounded(f, sign * x));
      auto t = static_cast<float>(tie);
      for (float x : {t, std::nextafterf(t, 0.0f), std::nextafterf(t, std::numeric_limits<float>::infinity())})
        wrong += !same(static_cast<float>(T(static_cast<float>(sign) * x)), rounded(f, sign * double(x)));
    }
  }
  CHECK(wrong == 0);
}

template <class T>
void check_random(format f) {
  std::mt19937_64 random(20240917);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isnan(x)) continue;
    wrong += !same(static_cast<float>(T(x)), rounded(f, x));
    double d = std::ldexp(double(random() >> 11), int(random() % 300) - 200);
    wrong += !same(static_cast<float>(T(d)), rounded(f, d));
  }
  CHECK(wrong == 0);
}

static_assert(sp::fp16(65504.0f).bits == 0x7bff && sp::fp16(65519.99f).bits == 0x7bff && sp::fp16(65520.0f).bits == 0x7c00);
static_assert(sp::fp16(0x1p-24f).bits == 1 && sp::fp16(0x1p-25f).bits == 0 && sp::fp16(0x1.8p-25f).bits == 1);
static_assert(sp::bf16(1.0f).bits == 0x3f80 && sp::bf16(-0.0f).bits == 0x8000 && sp::bf16(3).bits == 0x4040);
static_assert(sp::bf16(0x1.01p0f).bits == 0x3f80 && sp::bf16(0x1.03p0f).bits == 0x3f82, "ties go to the even neighbour");
static_assert(sp::bf16(std::numeric_limits<float>::max()).bits == 0x7f80);
static_assert(sp::bf16(1.0f + 0x1p-8).bits == 0x3f80 && sp::bf16(1.0 + 0x1p-8 + 0x1p-40).bits == 0x3f81, "double rounds once");
static_assert(sp::bf16(1e300).bits == 0x7f80 && sp::bf16(-1e300).bits == 0xff80 && sp::bf16(1e-300).bits == 0);

static_assert(std::is_same_v<sp::accumulate_t<double>, double> && std::is_same_v<sp::accumulate_t<float>, float>);
static_assert(std::is_same_v<sp::accumulate_t<sp::bf16 const>, float> && std::is_same_v<sp::accumulate_t<sp::fp16>, float>);
static_assert(sp::element<sp::bf16> && sp::element<double> && !sp::element<int> && !sp::element<float const>);
static_assert(sp::to_acc(sp::fp16(0.5f)) == 0.5f && sp::from_acc<sp::bf16>(2.0f).bits == 0x4000 &&
              sp::from_acc<double>(0.1) == 0.1);

TEST_CASE("dtype: all 65536 values mean what the format says and survive a round trip") {
  check_all_bits<sp::bf16>(bf16_format);
  check_all_bits<sp::fp16>(fp16_format);
}

TEST_CASE("dtype: ties go to even, neighbours of ties to the nearest, from float and from double") {
  check_ties<sp::bf16>(bf16_format);
  check_ties<sp::fp16>(fp16_format);
}

TEST_CASE("dtype: random floats and doubles round as an independent computation does") {
  check_random<sp::bf16>(bf16_format);
  check_random<sp::fp16>(fp16_format);
}

template <class T>
void check_underflow(format f, int lowest) {
  int wrong = 0, zeros = 0;
  for (int e = -1074; e <= lowest + 3; ++e) // subnormal doubles, doubles below every float, floats below the format
    for (double m : {1.0, 1.25, 1.5, 2.0 - 0x1p-30})
      for (double sign : {1.0, -1.0}) {
        double const x = sign * std::ldexp(m, e), got = static_cast<float>(T(x));
        wrong += !same(got, rounded(f, x));
        zeros += got == 0 && std::signbit(got) == (sign < 0);
      }
  CHECK(wrong == 0);
  CHECK(zeros > 7000);
}

TEST_CASE("dtype: doubles that underflow round to the nearest and keep their sign, down to a zero of that sign") {
  check_underflow<sp::bf16>(bf16_format, -133);
  check_underflow<sp::fp16>(fp16_format, -24);
  CHECK(sp::bf16(-1e-300).bits == 0x8000);
  CHECK(sp::fp16(-1e-300).bits == 0x8000);
  CHECK(sp::bf16(-0.0).bits == 0x8000);
  CHECK(sp::bf16(0.0).bits == 0);
}

TEST_CASE("dtype: infinities, NaN and values beyond the range") {
  double const inf = std::numeric_limits<double>::infinity();
  for (double x : {inf, -inf, 1e39, -1e39, std::numeric_limits<double>::max()}) {
    CHECK(static_cast<float>(sp::bf16(x)) == static_cast<float>(std::copysign(inf, x)));
    CHECK(static_cast<float>(sp::fp16(x)) == static_cast<float>(std::copysign(inf, x)));
  }
  CHECK(std::isnan(static_cast<float>(sp::bf16(std::nan("")))));
  CHECK(std::isnan(static_cast<float>(sp::fp16(std::nan("")))));
  CHECK(std::isnan(static_cast<float>(sp::fp16(std::bit_cast<float>(0x7f800001u))))); // a payload that rounding would drop
  CHECK(std::isnan(static_cast<float>(sp::bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST_CASE("dtype: arithmetic goes through float and rounds at each assignment") {
  sp::bf16 x(256.0f);
  x += 1.0f; // 257 needs nine bits: ties to 256
  CHECK(static_cast<float>(x) == 256.0f);
  CHECK(x + 1.0f == 257.0f);
  x *= 2.0f;
  x -= 12.0f;
  x /= 4.0f;
  CHECK(static_cast<float>(x) == 125.0f);
  CHECK(sp::fp16(2.0f) < sp::fp16(3.0f));
  CHECK(sp::fp16(0.0f) == sp::fp16(-0.0f));
}

TEST_CASE("dtype: names") {
  CHECK(std::string_view(sp::name<sp::bf16>()) == "bf16");
  CHECK(std::string_view(sp::name<sp::fp16>()) == "fp16");
  CHECK(std::string_view(sp::name<float>()) == "float");
  CHECK(std::string_view(sp::name<double>()) == "double");
}

} // namespace
} // namespace test_dtype
