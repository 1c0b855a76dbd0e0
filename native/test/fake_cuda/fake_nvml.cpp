// A libnvidia-ml.so.1 for tests.
#include <cstdio>
#include <cstring>

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlSystemGetDriverVersion(char* version, unsigned length) {
  std::snprintf(version, length, "580.95.05");
  return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** handle) {
  static int device;
  *handle = &device;
  return std::strncmp(bus, "0000:", 5) == 0 ? 0 : 6;
}
int nvmlDeviceGetClockInfo(void*, int type, unsigned* megahertz) {
  *megahertz = type == 1 ? 1755 : 2619;
  return 0;
}
int nvmlDeviceGetMaxClockInfo(void*, int, unsigned* megahertz) {
  *megahertz = 1980;
  return 0;
}
int nvmlDeviceGetPowerManagementLimit(void*, unsigned* milliwatts) {
  *milliwatts = 700000;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) {
  // Every question finds more in use, as if a context had been made in between.
  static unsigned long long used = 0;
  used += 500000000ULL;
  memory[0] = 80ULL << 30;
  memory[1] = memory[0] - used;
  memory[2] = used;
  return 0;
}

}  // extern "C"
