// The AMX tile registers of the calling thread, configured for as long as an AmxTiles lives.
//
// Included only by files compiled with AMX.
#ifndef KPT_KERNELS_BASE_AMX_TILES_H_
#define KPT_KERNELS_BASE_AMX_TILES_H_

#include <immintrin.h>

#include <cstdint>

namespace kpt::cpu::amx {

// What LDTILECFG reads: all eight tiles at their full 16 rows of 64 bytes.
struct alignas(64) FullTileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

class AmxTiles {
 public:
  AmxTiles() {
    // Static: GCC 12 takes _tile_loadconfig to read eight bytes alone, and would drop the stores
    // that fill the rest of a local variable.
    static constexpr FullTileConfig kConfig;
    _tile_loadconfig(&kConfig);
  }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;
};

// GCC's tile intrinsics are asm statements that do not tell which memory they read: this keeps
// ordinary loads and stores on their side of a run of them.
inline void TileFence() { asm volatile("" ::: "memory"); }

}  // namespace kpt::cpu::amx

#endif  // KPT_KERNELS_BASE_AMX_TILES_H_
