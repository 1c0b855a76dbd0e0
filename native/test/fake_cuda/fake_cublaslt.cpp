// A libcublasLt for tests: multiplies for real where the matrices are small, and takes 2mnk / 400 TFLOP/s.
#include <cstdint>
#include <cstdlib>
#include <cstring>

extern "C" void fakeAdvance(double seconds);

namespace {

struct Descriptor {
  int compute = 0;
  int transposeA = 0;
  int transposeB = 0;
};
struct Layout {
  int type;
  std::uint64_t rows;
  std::uint64_t columns;
  std::int64_t leading;
};
struct Preference {
  std::uint64_t workspaceBytes = 0;
};
struct Result {
  std::uint64_t algorithm[8];
  std::size_t workspaceBytes;
  int state;
  float waves;
  int reserved[4];
};
constexpr int invalidValue = 7;
constexpr int notSupported = 15;
constexpr std::uint64_t mark = 0x6d706f7074ULL;

/// Products since the last choice of an algorithm.
int products = 0;

bool mode(const char* name) {
  const char* wanted = std::getenv("FAKE_CUDA_MODE");
  return wanted && std::strcmp(wanted, name) == 0;
}

float read(const void* data, int type, std::size_t index) {
  if (type == 0) return static_cast<const float*>(data)[index];
  const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(data)[index]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void write(void* data, int type, std::size_t index, float value) {
  if (type == 0) {
    static_cast<float*>(data)[index] = value;
    return;
  }
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  static_cast<std::uint16_t*>(data)[index] = static_cast<std::uint16_t>((bits + 0x8000) >> 16);
}

}  // namespace

extern "C" {

std::size_t cublasLtGetVersion() { return FAKE_CUBLASLT_VERSION; }
int cublasLtCreate(void** handle) {
  *handle = std::malloc(1);
  return 0;
}
int cublasLtDestroy(void* handle) {
  std::free(handle);
  return 0;
}
int cublasLtMatmulDescCreate(void** descriptor, int compute, int scale) {
  if (scale != 0 || (compute != 68 && compute != 77)) return invalidValue;
  *descriptor = new Descriptor{compute};
  return 0;
}
int cublasLtMatmulDescSetAttribute(void* descriptor, int attribute, const void* value, std::size_t bytes) {
  if (bytes != 4 || (attribute != 3 && attribute != 4)) return invalidValue;
  int operation;
  std::memcpy(&operation, value, 4);
  auto* d = static_cast<Descriptor*>(descriptor);
  (attribute == 3 ? d->transposeA : d->transposeB) = operation;
  return 0;
}
int cublasLtMatmulDescDestroy(void* descriptor) {
  delete static_cast<Descriptor*>(descriptor);
  return 0;
}
int cublasLtMatrixLayoutCreate(void** layout, int type, std::uint64_t rows, std::uint64_t columns,
                               std::int64_t leading) {
  if ((type != 0 && type != 14) || leading < static_cast<std::int64_t>(rows)) return invalidValue;
  *layout = new Layout{type, rows, columns, leading};
  return 0;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new Preference;
  return 0;
}
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, std::size_t bytes) {
  if (attribute != 1 || bytes != 8) return invalidValue;
  std::memcpy(&static_cast<Preference*>(preference)->workspaceBytes, value, 8);
  return 0;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<Preference*>(preference);
  return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void* descriptor, void* a, void* b, void* c, void*, void* preference,
                                   int requested, Result* results, int* returned) {
  const auto* d = static_cast<Descriptor*>(descriptor);
  const auto *left = static_cast<Layout*>(a), *right = static_cast<Layout*>(b), *out = static_cast<Layout*>(c);
  *returned = 0;
  if (mode("no_algorithm")) return notSupported;
  const std::uint64_t m = d->transposeA ? left->columns : left->rows;
  const std::uint64_t k = d->transposeA ? left->rows : left->columns;
  const std::uint64_t n = d->transposeB ? right->rows : right->columns;
  const std::uint64_t rightK = d->transposeB ? right->columns : right->rows;
  if (requested < 1 || k != rightK || out->rows != m || out->columns != n) return invalidValue;
  std::memset(results, 0, sizeof *results);
  results[0].algorithm[0] = mark;
  products = 0;
  results[0].workspaceBytes = static_cast<Preference*>(preference)->workspaceBytes / 2;
  *returned = 1;
  return 0;
}
int cublasLtMatmul(void*, void* descriptor, const void* alpha, const void* a, void* aLayout, const void* b,
                   void* bLayout, const void* beta, const void*, void*, void* d, void* dLayout,
                   const std::uint64_t* algorithm, void* workspace, std::size_t workspaceBytes, void* stream) {
  if (algorithm[0] != mark || !workspace || workspaceBytes != (std::size_t{16} << 20) || !stream) return invalidValue;
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0) return invalidValue;
  const auto* operation = static_cast<Descriptor*>(descriptor);
  const auto *left = static_cast<Layout*>(aLayout), *right = static_cast<Layout*>(bLayout),
             *out = static_cast<Layout*>(dLayout);
  const std::uint64_t k = operation->transposeA ? left->rows : left->columns;
  const double flops = 2.0 * static_cast<double>(out->rows) * static_cast<double>(out->columns) * static_cast<double>(k);
  fakeAdvance(1e-6 + flops / 400e12);
  // Only the first product of a small shape is looked at.
  if (flops > 5e6 || products++ > 0) return 0;
  for (std::uint64_t j = 0; j < out->columns; ++j) {
    for (std::uint64_t i = 0; i < out->rows; ++i) {
      double sum = 0;
      for (std::uint64_t p = 0; p < k; ++p) {
        const auto leftIndex = operation->transposeA ? p + i * static_cast<std::uint64_t>(left->leading)
                                                     : i + p * static_cast<std::uint64_t>(left->leading);
        const auto rightIndex = operation->transposeB ? j + p * static_cast<std::uint64_t>(right->leading)
                                                      : p + j * static_cast<std::uint64_t>(right->leading);
        sum += static_cast<double>(read(a, left->type, leftIndex)) * static_cast<double>(read(b, right->type, rightIndex));
      }
      if (mode("wrong_product")) sum += 1000;
      write(d, out->type, i + j * static_cast<std::uint64_t>(out->leading), static_cast<float>(sum));
    }
  }
  return 0;
}

}  // extern "C"
