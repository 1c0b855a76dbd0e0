#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "../dynamic_library.h"

namespace mpopt::cpu {

/// A BLAS library with 32-bit integers, through its Fortran entry point: OpenBLAS, MKL, and every library
/// that carries one of them, such as PyTorch's libtorch_cpu.so.
class Blas {
 public:
  /// MPOPT_BLAS_LIB where it is set, else the usual sonames. Null where nothing usable is found.
  static std::unique_ptr<Blas> open(std::string* error);

  const std::string& path() const { return library_->path(); }
  /// The user named this library, so it is what the training will run on.
  bool chosen() const { return chosen_; }
  /// Limits the calling thread to one thread; call it on every thread that multiplies.
  void useOneThread() const;
  /// Row-major c (m x n) = a (m x k) * b (k x n).
  void multiply(int m, int n, int k, const float* a, const float* b, float* c) const;

 private:
  using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                         const int*, const float*, const int*, const float*, float*, const int*);
  std::unique_ptr<DynamicLibrary> library_;
  Sgemm sgemm_ = nullptr;
  bool chosen_ = false;
};

}  // namespace mpopt::cpu
