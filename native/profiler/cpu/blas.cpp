#include "blas.h"

#include <cstdlib>

namespace mpopt::cpu {

std::unique_ptr<Blas> Blas::open(std::string* error) {
  const char* named = std::getenv("MPOPT_BLAS_LIB");
  const bool chosen = named && *named;
  auto library = chosen ? DynamicLibrary::open(named, error)
                        : DynamicLibrary::find({}, {"libopenblas.so.0", "libmkl_rt.so.2", "libmkl_rt.so"}, error);
  if (!library) return nullptr;
  const auto sgemm = reinterpret_cast<Sgemm>(library->symbol("sgemm_"));
  if (!sgemm) {
    if (error) *error = library->path() + " has no symbol sgemm_";
    return nullptr;
  }
  std::unique_ptr<Blas> blas(new Blas());
  blas->library_ = std::move(library);
  blas->sgemm_ = sgemm;
  blas->chosen_ = chosen;
  return blas;
}

void Blas::useOneThread() const {
  if (const auto openblas = reinterpret_cast<void (*)(int)>(library_->symbol("openblas_set_num_threads"))) openblas(1);
  if (const auto mkl = reinterpret_cast<int (*)(int)>(library_->symbol("MKL_Set_Num_Threads_Local"))) mkl(1);
}

void Blas::multiply(int m, int n, int k, const float* a, const float* b, float* c) const {
  // A row-major matrix is its transpose in column-major order: c' = b' * a'.
  const float one = 1;
  const float zero = 0;
  sgemm_("N", "N", &n, &m, &k, &one, b, &n, a, &k, &zero, c, &n);
}

}  // namespace mpopt::cpu
