// Problems for fp8_gemm and int8_gemm: matrices of bytes with gaps, scales, what they stand for.
#ifndef KPT_TESTS_KERNELS_GEMM_BYTE_GEMM_TESTING_H_
#define KPT_TESTS_KERNELS_GEMM_BYTE_GEMM_TESTING_H_

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/gemm/fp8_gemm.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::testing_util {

// A matrix of one-byte elements whose rows lie `gap` bytes apart, in a buffer of exactly its size.
struct ByteMatrix {
  ByteMatrix(DType type, int64_t rows_in, int64_t cols_in, int64_t gap = 0)
      : dtype(type),
        rows(rows_in),
        cols(cols_in),
        stride(cols_in + gap),
        bytes(static_cast<size_t>(rows > 0 ? (rows - 1) * stride + cols : 0), 0x3c) {}

  uint8_t& At(int64_t r, int64_t c) { return bytes[static_cast<size_t>(r * stride + c)]; }
  double Value(int64_t r, int64_t c) const {
    const uint8_t code = bytes[static_cast<size_t>(r * stride + c)];
    if (dtype == DType::kInt8) return static_cast<int8_t>(code);
    return dtype == DType::kFloat8E5M2 ? E5M2::Decode(code) : E4M3FN::Decode(code);
  }
  // Any code of int8; finite codes of fp8, none large.
  void Fill(std::mt19937* random) {
    for (uint8_t& code : bytes) {
      code = static_cast<uint8_t>((*random)());
      if (dtype != DType::kInt8) code &= dtype == DType::kFloat8E5M2 ? 0xbfu : 0xc7u;
    }
  }
  TensorView view() const {
    TensorView v;
    v.data = bytes.data();
    v.dtype = dtype;
    v.rank = 2;
    v.shape[0] = rows;
    v.shape[1] = cols;
    v.strides[0] = stride;
    v.strides[1] = 1;
    return v;
  }

  DType dtype;
  int64_t rows, cols, stride;
  std::vector<uint8_t> bytes;
};

// Scales of a factor: of the tensor, its rows, or blocks of `block_rows` x 128, stored transposed.
struct Scales {
  Scales(int scale_rank, int64_t rows, int64_t cols, int64_t block_rows, std::mt19937* random)
      : rank(scale_rank), rows_per_scale(rank == 2 ? block_rows : 1) {
    shape[0] = rank == 2 ? (rows + block_rows - 1) / block_rows : rows;
    shape[1] = (cols + cpu::kFp8Block - 1) / cpu::kFp8Block;
    const int64_t count = rank == 0 ? 1 : shape[0] * (rank == 2 ? shape[1] : 1);
    for (int64_t i = 0; i < count; ++i) {
      values.push_back(0.005f + static_cast<float>((*random)() % 64) / 4096);
    }
  }
  double Value(int64_t r, int64_t c) const {
    const int64_t at = rank == 0   ? 0
                       : rank == 1 ? r
                                   : r / rows_per_scale + c / cpu::kFp8Block * shape[0];
    return static_cast<double>(values[static_cast<size_t>(at)]);
  }
  TensorView view() const {
    TensorView v;
    v.data = values.data();
    v.rank = rank;
    v.shape[0] = shape[0];
    v.shape[1] = shape[1];
    v.strides[0] = 1;
    v.strides[1] = shape[0];
    return v;
  }

  int rank;
  int64_t rows_per_scale;
  int64_t shape[2] = {};
  std::vector<float> values;
};

}  // namespace kpt::testing_util

#endif  // KPT_TESTS_KERNELS_GEMM_BYTE_GEMM_TESTING_H_
