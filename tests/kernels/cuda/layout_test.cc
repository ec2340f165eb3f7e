// Swizzles, descriptors and register layouts of Hopper's tensor cores, against models of the
// hardware that are written from the PTX ISA's words, apart from the code under test.
#include "kernels/base/cuda/layout.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>
#include <vector>

namespace kpt::cuda {
namespace {

constexpr Swizzle kSwizzles[] = {Swizzle::kNone, Swizzle::k32, Swizzle::k64, Swizzle::k128};

// "Tensor swizzling modes": which 16-byte piece of a row the hardware writes piece `piece` of row
// `row` to, rows of one span lying densely.
int PieceInModel(Swizzle swizzle, int row, int piece) {
  switch (swizzle) {
    case Swizzle::k128:  // the pattern repeats after 8 rows of 8 pieces
      return piece ^ (row % 8);
    case Swizzle::k64:  // after 8 rows of 4 pieces; two rows share a line of 128 bytes
      return piece ^ (row / 2 % 4);
    case Swizzle::k32:  // after 8 rows of 2 pieces; four rows share a line
      return piece ^ (row / 4 % 2);
    case Swizzle::kNone:
      break;
  }
  return piece;
}

TEST(Swizzle, MovesPiecesAsTheHardwareDoes) {
  for (const Swizzle swizzle : kSwizzles) {
    const int pieces = SpanBytes(swizzle) / 16;
    for (int row = 0; row < 64; ++row) {
      for (int piece = 0; piece < pieces; ++piece) {
        for (int byte = 0; byte < 16; ++byte) {
          const uint32_t line = static_cast<uint32_t>(row * SpanBytes(swizzle));
          EXPECT_EQ(SwizzledOffset(swizzle, line + piece * 16 + byte),
                    line + PieceInModel(swizzle, row, piece) * 16 + byte);
        }
      }
    }
  }
}

TEST(Swizzle, IsItsOwnInverse) {
  for (const Swizzle swizzle : kSwizzles) {
    for (uint32_t offset = 0; offset < 8192; ++offset) {
      EXPECT_EQ(SwizzledOffset(swizzle, SwizzledOffset(swizzle, offset)), offset);
    }
  }
}

TEST(Swizzle, ColumnsMeetNoBankTwice) {
  // Eight rows of one column of pieces, as ldmatrix and the tensor cores read them: with the widest
  // swizzle they lie in eight different groups of four banks.
  for (int piece = 0; piece < 8; ++piece) {
    std::set<uint32_t> groups;
    for (int row = 0; row < 8; ++row) {
      groups.insert(SwizzledOffset(Swizzle::k128, row * 128 + piece * 16) / 16 % 8);
    }
    EXPECT_EQ(groups.size(), 8u);
  }
}

// The fields of the descriptor ("Matrix Descriptor Format" of wgmma), decoded bit by bit.
struct Fields {
  uint32_t address, leading, stride;
  int base_offset, mode;
};
Fields Decode(uint64_t d) {
  return {static_cast<uint32_t>(d & 0x3FFF) << 4, static_cast<uint32_t>(d >> 16 & 0x3FFF) << 4,
          static_cast<uint32_t>(d >> 32 & 0x3FFF) << 4, static_cast<int>(d >> 49 & 7),
          static_cast<int>(d >> 62)};
}

TEST(Descriptor, Fields) {
  const Fields f = Decode(MatrixDescriptor(0x2A400, Swizzle::k64, 4096, 512));
  EXPECT_EQ(f.address, 0x2A400u);
  EXPECT_EQ(f.leading, 4096u);
  EXPECT_EQ(f.stride, 512u);
  EXPECT_EQ(f.base_offset, 0);
  EXPECT_EQ(f.mode, 2);
  EXPECT_EQ(Decode(KMajorDescriptor(1024, Swizzle::k128)).mode, 1);
  EXPECT_EQ(Decode(KMajorDescriptor(1024, Swizzle::k32)).mode, 3);
  // Addresses beyond 18 bits are those of other windows: the bits are dropped, not spilled.
  EXPECT_EQ(Decode(MatrixDescriptor(0xFFFC0400, Swizzle::kNone, 16, 16)).address, 0x0400u);
}

// Where the tensor cores look for byte `k` of row `row` of a K-major operand with a swizzle: rows
// of a group of eight lie one span apart, groups the stride; the address bits are then swizzled.
uint32_t OperandAddress(uint64_t descriptor, int row, int k) {
  const Fields f = Decode(descriptor);
  const int span = f.mode == 1 ? 128 : f.mode == 2 ? 64 : 32;
  const uint32_t linear = f.address + row / 8 * f.stride + row % 8 * span + k;
  const uint32_t line = linear / 128 % 8;
  const uint32_t mask = span / 16 - 1;
  return linear ^ ((line & mask) << 4);
}

TEST(Descriptor, TensorCoresReadWhatTmaWrote) {
  constexpr uint32_t kBase = 0x8400;  // a multiple of 1024
  for (const Swizzle swizzle : {Swizzle::k128, Swizzle::k64, Swizzle::k32}) {
    const int span = SpanBytes(swizzle);
    const uint64_t descriptor = KMajorDescriptor(kBase, swizzle);
    for (int step = 0; step < span / 32; ++step) {  // an instruction takes 32 bytes of K
      const uint64_t at = Advance(descriptor, 32 * step);
      for (int row = 0; row < 256; ++row) {
        for (int k = 0; k < 32; ++k) {
          const int byte = 32 * step + k;
          const uint32_t written =
              kBase + row * span + PieceInModel(swizzle, row, byte / 16) * 16 + byte % 16;
          ASSERT_EQ(OperandAddress(at, row, k), written) << span << " " << row << " " << byte;
        }
      }
    }
  }
}

TEST(Descriptor, LowerHalfOfATile) {
  // The second warpgroup's 64 rows begin 64 spans on, at a multiple of the pattern.
  const uint64_t upper = KMajorDescriptor(0x8400, Swizzle::k128);
  const uint64_t lower = KMajorDescriptor(0x8400 + 64 * 128, Swizzle::k128);
  for (int row = 0; row < 64; ++row) {
    EXPECT_EQ(OperandAddress(lower, row, 0), OperandAddress(upper, row + 64, 0));
  }
}

TEST(Accumulators, CoverTheTileOnce) {
  for (const int n : {8, 64, 96, 256}) {
    std::set<std::pair<int, int>> seen;
    for (int thread = 0; thread < 128; ++thread) {
      for (int i = 0; i < n / 2; ++i) {
        const int row = AccumulatorRow(thread, i), col = AccumulatorColumn(thread, i);
        EXPECT_TRUE(row >= 0 && row < 64 && col >= 0 && col < n);
        EXPECT_TRUE(seen.insert({row, col}).second);
      }
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(64 * n));
  }
}

TEST(Accumulators, AsTheIsaDrawsThem) {
  // "Register fragments for wgmma D": thread 0 holds d0 d1 of row 0, d2 d3 of row 8, d4 d5 of row 0
  // eight columns on; thread 5 begins at row 1, column 2; warp 1 at row 16.
  EXPECT_EQ(AccumulatorRow(0, 1), 0);
  EXPECT_EQ(AccumulatorColumn(0, 1), 1);
  EXPECT_EQ(AccumulatorRow(0, 2), 8);
  EXPECT_EQ(AccumulatorColumn(0, 4), 8);
  EXPECT_EQ(AccumulatorRow(5, 0), 1);
  EXPECT_EQ(AccumulatorColumn(5, 0), 2);
  EXPECT_EQ(AccumulatorRow(32, 0), 16);
}

TEST(StoreMatrix, WritesEachAccumulatorWhereItBelongs) {
  // stmatrix.x4: register w of lane l holds elements 2 * (l % 4) and the next of row l / 4 of
  // matrix w, whose rows begin where lanes 8 * w to 8 * w + 7 say.
  constexpr int kCols = 64;
  std::vector<int> from(64 * kCols, -1);
  for (int part = 0; part < kCols / 16; ++part) {
    for (int thread = 0; thread < 128; ++thread) {
      for (int w = 0; w < 4; ++w) {
        const int giver = thread / 32 * 32 + 8 * w + thread % 32 / 4;
        const int row = StoreMatrixRow(giver);
        const int col = StoreMatrixColumn(giver, part) + thread % 4 * 2;
        for (int half = 0; half < 2; ++half) {
          const int i = 8 * part + 2 * w + half;
          from[row * kCols + col + half] =
              AccumulatorRow(thread, i) * kCols + AccumulatorColumn(thread, i);
        }
      }
    }
  }
  for (int e = 0; e < 64 * kCols; ++e) EXPECT_EQ(from[e], e);
}

TEST(Ring, PhaseFlipsEveryRound) {
  Ring<3> ring;
  for (int step = 0; step < 20; ++step, ring.Next()) {
    EXPECT_EQ(ring.stage, step % 3);
    EXPECT_EQ(ring.phase, static_cast<uint32_t>(step / 3 % 2));
  }
}

}  // namespace
}  // namespace kpt::cuda
