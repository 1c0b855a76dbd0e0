#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "driver.h"

namespace mpopt::cuda {

// The part of the cuBLASLt interface that is used, declared as in driver.h. The values hold for the sonames
// libcublasLt.so.12 and .13.
using Status = int;

enum class DataType : int { f32 = 0, bf16 = 14 };
enum class ComputeType : int { f32 = 68, tf32 = 77 };
enum class DescriptorAttribute : int { transposeA = 3, transposeB = 4 };
enum class PreferenceAttribute : int { maximumWorkspaceBytes = 1 };
enum class Operation : std::int32_t { none = 0, transpose = 1 };

struct Algorithm {
  std::uint64_t data[8];
};

struct HeuristicResult {
  Algorithm algorithm;
  std::size_t workspaceBytes;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96, "the layout of cublasLtMatmulHeuristicResult_t");

struct CublasLt {
  std::unique_ptr<DynamicLibrary> library;
  /// 10000 * major + 100 * minor + patch, as the library counts.
  std::size_t version = 0;

  using Handle = void*;
  using Descriptor = void*;
  using Layout = void*;
  using Preference = void*;
  std::size_t (*getVersion)();
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*descriptorCreate)(Descriptor*, int computeType, int scaleType);
  Status (*descriptorSet)(Descriptor, int attribute, const void*, std::size_t);
  Status (*descriptorDestroy)(Descriptor);
  Status (*layoutCreate)(Layout*, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t leading);
  Status (*layoutDestroy)(Layout);
  Status (*preferenceCreate)(Preference*);
  Status (*preferenceSet)(Preference, int attribute, const void*, std::size_t);
  Status (*preferenceDestroy)(Preference);
  Status (*heuristic)(Handle, Descriptor, Layout a, Layout b, Layout c, Layout d, Preference, int requested,
                      HeuristicResult*, int* returned);
  Status (*matmul)(Handle, Descriptor, const void* alpha, const void* a, Layout, const void* b, Layout,
                   const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace,
                   std::size_t workspaceBytes, Stream);
};

/// Opens the newest cuBLASLt that the driver supports.
/// Throws BackendError when there is none.
std::unique_ptr<CublasLt> openCublasLt(int driverVersion);

/// y (m x n) = x (m x k) * w' with w (n x k), all row-major: the forward product of a linear layer. Inputs are
/// of `type`; so is the result.
class LinearProduct {
 public:
  LinearProduct(const CublasLt& library, DataType type, ComputeType compute, std::uint64_t m, std::uint64_t n,
                std::uint64_t k, std::size_t workspaceBytes);
  ~LinearProduct();
  LinearProduct(const LinearProduct&) = delete;
  LinearProduct& operator=(const LinearProduct&) = delete;

  /// Enqueues one product. Throws BackendError.
  void enqueue(DevicePointer x, DevicePointer w, DevicePointer y, DevicePointer workspace, Stream stream) const;

 private:
  void release();

  const CublasLt& library_;
  CublasLt::Handle handle_ = nullptr;
  CublasLt::Descriptor descriptor_ = nullptr;
  CublasLt::Layout w_ = nullptr;
  CublasLt::Layout x_ = nullptr;
  CublasLt::Layout y_ = nullptr;
  HeuristicResult choice_{};
};

}  // namespace mpopt::cuda
