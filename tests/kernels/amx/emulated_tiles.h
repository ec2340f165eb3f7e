// The AMX tile intrinsics as plain C++, for processors without AMX.
//
// Included before everything else (-include) by the copy of the *_amx.cc kernels that the tests of
// this folder link. Follows the operation sections of TDPBF16PS, TDPBUSD, TILELOADD, TILESTORED and
// LDTILECFG in Intel's Software Developer's Manual, volume 2. Any use that a processor would fault
// on, such as a tile that is not configured or shapes that do not fit, aborts.
#ifndef KPT_TESTS_KERNELS_AMX_EMULATED_TILES_H_
#define KPT_TESTS_KERNELS_AMX_EMULATED_TILES_H_

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace kpt_emulated_tiles {

constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

struct Config {  // the 64 bytes that LDTILECFG reads
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

struct State {
  bool configured = false;
  Config config;
  alignas(64) unsigned char data[kTiles][kMaxRows][kMaxRowBytes];
};

// Tiles belong to a thread, like registers.
static thread_local State state;

[[maybe_unused]] static void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "emulated AMX: %s\n", what);
  std::abort();
}

[[maybe_unused]] static void RequireTile(int tile) {
  Require(state.configured, "a tile is used without a configuration");
  Require(tile >= 0 && tile < kTiles, "no such tile");
  Require(state.config.rows[tile] > 0 && state.config.row_bytes[tile] > 0, "an empty tile is used");
}

[[maybe_unused]] static void LoadConfig(const void* from) {
  std::memcpy(&state.config, from, sizeof(Config));
  const Config& c = state.config;
  Require(c.palette == 1 && c.start_row == 0, "palette must be 1, start_row 0");
  for (const uint8_t byte : c.reserved) Require(byte == 0, "reserved bytes must be 0");
  for (int t = 0; t < 16; ++t) {
    Require(t < kTiles || (c.rows[t] == 0 && c.row_bytes[t] == 0), "more than 8 tiles");
    Require(c.rows[t] <= kMaxRows && c.row_bytes[t] <= kMaxRowBytes, "a tile is too large");
    Require((c.rows[t] == 0) == (c.row_bytes[t] == 0), "a tile has rows or columns alone");
    Require(c.row_bytes[t] % 4 == 0, "row bytes must be a multiple of 4");
  }
  std::memset(state.data, 0, sizeof(state.data));
  state.configured = true;
}

[[maybe_unused]] static void Release() { state.configured = false; }

[[maybe_unused]] static void Zero(int tile) {
  RequireTile(tile);
  std::memset(state.data[tile], 0, sizeof(state.data[tile]));
}

[[maybe_unused]] static void Load(int tile, const void* from, int64_t stride) {
  RequireTile(tile);
  std::memset(state.data[tile], 0, sizeof(state.data[tile]));
  for (int r = 0; r < state.config.rows[tile]; ++r) {
    std::memcpy(state.data[tile][r], static_cast<const char*>(from) + r * stride,
                state.config.row_bytes[tile]);
  }
}

[[maybe_unused]] static void Store(int tile, void* to, int64_t stride) {
  RequireTile(tile);
  for (int r = 0; r < state.config.rows[tile]; ++r) {
    std::memcpy(static_cast<char*>(to) + r * stride, state.data[tile][r],
                state.config.row_bytes[tile]);
  }
}

template <class T>
static T Element(int tile, int row, int column) {
  T x;
  std::memcpy(&x, state.data[tile][row] + column * sizeof(T), sizeof(T));
  return x;
}

template <class T>
static void SetElement(int tile, int row, int column, T x) {
  std::memcpy(state.data[tile][row] + column * sizeof(T), &x, sizeof(T));
}

// The shapes that a product of tiles asks for: sum [M][N], a [M][K dwords], b [K][N dwords].
[[maybe_unused]] static void RequireProduct(int sum, int a, int b) {
  RequireTile(sum);
  RequireTile(a);
  RequireTile(b);
  Require(sum != a && sum != b && a != b, "the tiles of a product must differ");
  const Config& c = state.config;
  Require(c.rows[sum] == c.rows[a], "the product's rows differ");
  Require(c.row_bytes[sum] == c.row_bytes[b], "the product's columns differ");
  Require(c.row_bytes[a] / 4 == c.rows[b], "the product's inner sizes differ");
}

// Subnormal numbers count as zeros (DAZ) and come out as zeros (FTZ).
static float Flush(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

static float FromBf16(uint16_t code) {
  const uint32_t bits = static_cast<uint32_t>(code) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return Flush(x);
}

[[maybe_unused]] static void DotBf16(int sum, int a, int b) {
  RequireProduct(sum, a, b);
  const int columns = state.config.row_bytes[sum] / 4;
  for (int m = 0; m < state.config.rows[sum]; ++m) {
    for (int n = 0; n < columns; ++n) {
      float even = 0, odd = 0;
      for (int k = 0; k < state.config.rows[b]; ++k) {
        even = Flush(std::fma(FromBf16(Element<uint16_t>(a, m, 2 * k)),
                              FromBf16(Element<uint16_t>(b, k, 2 * n)), even));
        odd = Flush(std::fma(FromBf16(Element<uint16_t>(a, m, 2 * k + 1)),
                             FromBf16(Element<uint16_t>(b, k, 2 * n + 1)), odd));
      }
      const float before = Flush(Element<float>(sum, m, n));
      SetElement(sum, m, n, Flush(before + Flush(even + odd)));
    }
  }
}

// Bytes of a unsigned, of b signed; sums wrap.
[[maybe_unused]] static void DotUnsignedSigned(int sum, int a, int b) {
  RequireProduct(sum, a, b);
  const int columns = state.config.row_bytes[sum] / 4;
  for (int m = 0; m < state.config.rows[sum]; ++m) {
    for (int n = 0; n < columns; ++n) {
      uint32_t total = Element<uint32_t>(sum, m, n);
      for (int k = 0; k < state.config.rows[b]; ++k) {
        for (int i = 0; i < 4; ++i) {
          total += static_cast<uint32_t>(Element<uint8_t>(a, m, 4 * k + i) *
                                         Element<int8_t>(b, k, 4 * n + i));
        }
      }
      SetElement(sum, m, n, total);
    }
  }
}

}  // namespace kpt_emulated_tiles

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_loadconfig(from) kpt_emulated_tiles::LoadConfig(from)
#define _tile_release() kpt_emulated_tiles::Release()
#define _tile_loadd(tile, from, stride) kpt_emulated_tiles::Load(tile, from, stride)
#define _tile_stored(tile, to, stride) kpt_emulated_tiles::Store(tile, to, stride)
#define _tile_zero(tile) kpt_emulated_tiles::Zero(tile)
#define _tile_dpbf16ps(sum, a, b) kpt_emulated_tiles::DotBf16(sum, a, b)
#define _tile_dpbusd(sum, a, b) kpt_emulated_tiles::DotUnsignedSigned(sum, a, b)

#endif  // KPT_TESTS_KERNELS_AMX_EMULATED_TILES_H_
