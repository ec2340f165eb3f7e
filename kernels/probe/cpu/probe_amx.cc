#include <immintrin.h>

#include "kernels/base/amx_tiles.h"
#include "kernels/probe/cpu/probe_loops.h"

namespace kpt::cpu::amx {
namespace {

static inline void ZeroTiles() {
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
  const AmxTiles tiles;
  ZeroTiles();
  for (int64_t i = 0; i < iterations; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return 16.0 * 16 * 32 * 2 * 4 * iterations;
}

double Int8Loop(int64_t iterations) {
  const AmxTiles tiles;
  ZeroTiles();
  for (int64_t i = 0; i < iterations; ++i) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  return 16.0 * 16 * 64 * 2 * 4 * iterations;
}

}  // namespace kpt::cpu::amx
