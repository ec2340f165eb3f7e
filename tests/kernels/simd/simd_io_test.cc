// Conversions of simd_io.h against the scalar codecs, exhaustively where the format allows it.
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/float_codec.h"
#include "tests/kernels/simd/probe.h"

namespace kpt::cpu {
namespace {

std::vector<float> Floats() {
  std::vector<float> x;
  std::mt19937 random(5);
  for (int i = 0; i < 400000; ++i) x.push_back(FloatFromBits(random()));
  for (uint32_t code = 0; code < 65536; ++code) {
    const float h = Half::Decode(code);
    x.push_back(h);
    if (std::isfinite(h)) x.push_back(h * 1.00048828125f);  // the midpoint to the next one
    x.push_back(FloatFromBits((code << 16) | 0x8000));      // bfloat16's midpoints
    x.push_back(FloatFromBits((code << 16) | 0x7fff));
  }
  return x;
}

TEST(SimdIo, WidensEveryCode) {
  std::vector<uint16_t> codes(65536);
  for (int i = 0; i < 65536; ++i) codes[i] = static_cast<uint16_t>(i);
  std::vector<float> y(codes.size());
  for (const Probe& p : Probes()) {
    p.from_half(codes.data(), y.data(), 65536);
    for (int i = 0; i < 65536; ++i) {
      const float want = Half::Decode(codes[i]);
      ASSERT_TRUE(std::isnan(want) ? std::isnan(y[i]) : FloatBits(y[i]) == FloatBits(want))
          << p.name << " half " << i << ": " << y[i] << ", want " << want;
    }
    p.from_bf16(codes.data(), y.data(), 65536);
    for (int i = 0; i < 65536; ++i) {
      ASSERT_EQ(FloatBits(y[i]), static_cast<uint32_t>(i) << 16) << p.name;
    }
  }
}

TEST(SimdIo, NarrowsToNearestEven) {
  const std::vector<float> x = Floats();
  std::vector<uint16_t> y(x.size());
  for (const Probe& p : Probes()) {
    p.to_half(x.data(), y.data(), static_cast<int64_t>(x.size()), false);
    for (size_t i = 0; i < x.size(); ++i) {
      const uint16_t want = EncodeHalf(x[i]);
      ASSERT_TRUE(std::isnan(x[i]) ? std::isnan(DecodeHalf(y[i])) : y[i] == want)
          << p.name << " half of " << x[i] << ": " << y[i] << ", want " << want;
    }
    const bool flushes = std::string(p.name) == "avx512_bf16";
    p.to_bf16(x.data(), y.data(), static_cast<int64_t>(x.size()), false);
    for (size_t i = 0; i < x.size(); ++i) {
      uint16_t want = EncodeBf16(x[i]);
      if (flushes && std::fabs(x[i]) < 0x1p-126f) want &= 0x8000;  // documented in simd_io.h
      ASSERT_TRUE(std::isnan(x[i]) ? std::isnan(DecodeBf16(y[i])) : y[i] == want)
          << p.name << " bfloat16 of " << x[i] << ": " << y[i] << ", want " << want;
    }
  }
}

// Every length and alignment, streaming or not, writes exactly its elements.
TEST(SimdIo, TailsAndStreams) {
  constexpr int kMost = 150, kRoom = kMost + 80;
  std::vector<float> x(kRoom);
  for (int i = 0; i < kRoom; ++i) x[i] = static_cast<float>(i + 1);
  alignas(64) uint16_t narrow[kRoom];
  alignas(64) float wide[kRoom];
  for (const Probe& p : Probes()) {
    for (bool stream : {false, true}) {
      for (int offset = 0; offset < 35; ++offset) {
        for (int n = 0; n <= kMost; n += n < 70 ? 1 : 7) {
          for (int i = 0; i < kRoom; ++i) {
            narrow[i] = 0xabcd;
            wide[i] = -1.0f;
          }
          p.to_bf16(x.data() + 3, narrow + offset, n, stream);
          p.copy(x.data() + 3, wide + offset, n, stream);
          for (int i = 0; i < kRoom; ++i) {
            const bool inside = i >= offset && i < offset + n;
            const float value = inside ? x[i - offset + 3] : -1.0f;
            ASSERT_EQ(wide[i], value) << p.name << " " << offset << " " << n;
            ASSERT_EQ(narrow[i], inside ? EncodeBf16(value) : 0xabcd) << p.name;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kpt::cpu
