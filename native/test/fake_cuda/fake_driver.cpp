// A libcuda.so.1 for tests: one or two devices whose memory is the host's and whose clock only moves when work
// is enqueued. FAKE_CUDA_MODE chooses what goes wrong; FAKE_CUDA_VERSION sets the CUDA version,
// FAKE_CUDA_LARGEST the bytes above which an allocation fails.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

/// Device time in seconds.
double now = 0;
/// Buffers given back; an address may come again with other content.
std::uint64_t frees = 0;
constexpr double copyBytesPerSecond = 2e12;
constexpr double copySeconds = 2e-6;

bool mode(const char* name) {
  const char* wanted = std::getenv("FAKE_CUDA_MODE");
  return wanted && std::strcmp(wanted, name) == 0;
}

struct FakeEvent {
  double seconds = 0;
};

}  // namespace

extern "C" {

/// Called by the fake cuBLASLt.
void fakeAdvance(double seconds) { now += seconds; }

int cuInit(unsigned) {
  if (mode("crash")) std::abort();
  if (mode("hang")) {
    for (volatile bool forever = true; forever;) {
    }
  }
  return mode("no_device") ? 100 : 0;
}
int cuDriverGetVersion(int* version) {
  const char* wanted = std::getenv("FAKE_CUDA_VERSION");
  *version = wanted ? std::atoi(wanted) : 13000;
  return 0;
}
int cuGetErrorName(int error, const char** name) {
  *name = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : nullptr;
  return *name ? 0 : 1;
}
int cuDeviceGetCount(int* count) {
  *count = mode("no_device") ? 0 : 2;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int length, int) {
  std::snprintf(name, static_cast<std::size_t>(length), "Fake GPU 80GB");
  return 0;
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
  *bytes = std::size_t{80} << 30;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 13: *value = 1980000; break;
    case 16: *value = 132; break;
    case 36: *value = 2619000; break;
    case 38: *value = 1 << 20; break;
    case 75: *value = 9; break;
    case 76: *value = 0; break;
    default: return 1;
  }
  return 0;
}
int cuDeviceGetPCIBusId(char* text, int length, int device) {
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", device + 1);
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &now;
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuMemAlloc_v2(std::uint64_t* pointer, std::size_t bytes) {
  const char* limit = std::getenv("FAKE_CUDA_LARGEST");
  if (limit && bytes > std::strtoull(limit, nullptr, 10)) return 2;
  *pointer = reinterpret_cast<std::uint64_t>(std::malloc(bytes));
  return *pointer ? 0 : 2;
}
int cuMemFree_v2(std::uint64_t pointer) {
  ++frees;
  std::free(reinterpret_cast<void*>(pointer));
  return 0;
}
int cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  *free = *total = std::size_t{80} << 30;
  return 0;
}
int cuMemcpyHtoD_v2(std::uint64_t to, const void* from, std::size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return 0;
}
int cuMemcpyDtoH_v2(void* to, std::uint64_t from, std::size_t bytes) {
  std::memcpy(to, reinterpret_cast<void*>(from), bytes);
  return 0;
}
#ifndef FAKE_WITHOUT_COPY
int cuMemcpyDtoDAsync_v2(std::uint64_t to, std::uint64_t from, std::size_t bytes, void*) {
  // The same copy again would only cost the test time.
  static std::uint64_t last[4];
  if (!mode("wrong_copy") && (last[0] != to || last[1] != from || last[2] != bytes || last[3] != frees)) {
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    last[0] = to;
    last[1] = from;
    last[2] = bytes;
    last[3] = frees;
  }
  now += copySeconds + 2 * static_cast<double>(bytes) / copyBytesPerSecond;
  return 0;
}
#endif
int cuStreamCreate(void** stream, unsigned) {
  *stream = &now;
  return 0;
}
int cuStreamDestroy_v2(void*) { return 0; }
int cuEventCreate(void** event, unsigned) {
  *event = new FakeEvent;
  return 0;
}
int cuEventRecord(void* event, void*) {
  static_cast<FakeEvent*>(event)->seconds = now;
  return 0;
}
int cuEventQuery(void*) {
  // Not ready at the first question, so that waiting is exercised too.
  static bool asked = false;
  asked = !asked;
  if (mode("launch_failed")) return 719;
  return asked ? 600 : 0;
}
int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  *milliseconds =
      static_cast<float>(1e3 * (static_cast<FakeEvent*>(end)->seconds - static_cast<FakeEvent*>(start)->seconds));
  return 0;
}
int cuEventDestroy_v2(void* event) {
  delete static_cast<FakeEvent*>(event);
  return 0;
}

}  // extern "C"
