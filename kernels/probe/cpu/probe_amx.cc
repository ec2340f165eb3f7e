#include <immintrin.h>

#include "kernels/probe/cpu/probe_loops.h"

namespace kpt::cpu::amx {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t colsb[16] = {};
  uint8_t rows[16] = {};
};

// All eight tiles at their full 16 rows of 64 bytes.
static inline void LoadFullTiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.colsb[i] = 64;
    config.rows[i] = 16;
  }
  // GCC 12 takes _tile_loadconfig to read eight bytes alone and drops the other stores.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

}  // namespace

// Four sums of 16x16 from two left and two right tiles, as a 32x32 block of a product has.
double Bf16Loop(int64_t iterations) {
  LoadFullTiles();
  for (int64_t i = 0; i < iterations; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 16.0 * 16 * 32 * 2 * 4 * iterations;
}

double Int8Loop(int64_t iterations) {
  LoadFullTiles();
  for (int64_t i = 0; i < iterations; ++i) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
  return 16.0 * 16 * 64 * 2 * 4 * iterations;
}

}  // namespace kpt::cpu::amx
