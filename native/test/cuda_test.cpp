// The CUDA backend against libraries that only pretend. What a real GPU has to confirm stands in native/README.md.
#include <cstdlib>
#include <map>
#include <set>

#include "check.h"
#include "cuda/driver.h"
#include "mpopt/isolate.h"
#include "mpopt/profiler.h"

using namespace mpopt;

namespace {

/// Runs the backend in a child with these variables, so that every case starts with unloaded libraries.
std::string inChild(const std::map<std::string, std::string>& variables, const std::function<std::string()>& work,
                    double deadlineSeconds = 60) {
  return runIsolated(
      [&] {
        for (const char* name : {"MPOPT_PYTHON_SITE", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"}) unsetenv(name);
        for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
        return work();
      },
      deadlineSeconds);
}

const std::string complete = FAKE_CUDA_DIR;
const std::string older = FAKE_CUDA_12_DIR;
const std::string lacking = FAKE_CUDA_LACKING_DIR;

Report profileNow() {
  Request request;
  request.quick = true;
  request.budgetSeconds = 20;
  return makeBackend("cuda")->profile(request, nullptr);
}

std::string list() { return toJson(makeBackend("cuda")->list()); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void happyPath() {
  const std::string verdict = inChild({{"MPOPT_CUDA_LIB_DIR", complete}}, [] {
    const Report report = profileNow();
    if (!report.failedProbes.empty()) {
      return report.failedProbes.front().probe + ": " + report.failedProbes.front().reason;
    }
    if (report.devices.size() != 2) return std::string("not two devices");
    if (report.environment.driver != "580.95.05") return std::string("driver " + report.environment.driver);
    if (report.devices[0].attributes.at("contextBytes") != 5e8) return std::string("context bytes");
    std::set<std::string> seen;
    for (const Measurement& one : report.measurements) {
      seen.insert(one.operation + " " + one.dtype);
      const double expected = one.operation == "gemm" ? 1e-6 + one.work / 400e12
                              : one.operation == "copy" ? 2e-6 + one.work / 2e12
                                                        : 2e-6 + 512 / 2e12;
      if (std::abs(one.seconds.median / expected - 1) > 0.01) {
        return one.operation + " " + std::to_string(one.work) + ": " + std::to_string(one.seconds.median * 1e6) +
               " us instead of " + std::to_string(expected * 1e6);
      }
    }
    for (const char* wanted : {"gemm bf16", "gemm tf32", "gemm f32", "copy f32", "launch i8"}) {
      if (!seen.count(wanted)) return std::string("no ") + wanted;
    }
    return std::string("right");
  });
  if (verdict != "right") throw test::Failure{verdict};
}

void listNamesTheLibraries() {
  const std::string text = inChild({{"MPOPT_CUDA_LIB_DIR", complete}}, list);
  CHECK(contains(text, "\"name\":\"Fake GPU 80GB\""));
  CHECK(contains(text, "\"computeCapability\":9"));
  CHECK(contains(text, "\"multiprocessors\":132"));
  CHECK(contains(text, "130000 from " + complete + "/libcublasLt.so.13"));
}

void noDevice() {
  const std::string sentence = THROWN(BackendError, [] {
    inChild({{"MPOPT_CUDA_LIB_DIR", complete}, {"FAKE_CUDA_MODE", "no_device"}}, list);
  });
  CHECK(contains(sentence, "sees no GPU"));
}

void missingSymbol() {
  const std::string sentence =
      THROWN(BackendError, [] { inChild({{"MPOPT_CUDA_LIB_DIR", lacking}}, list); });
  CHECK(contains(sentence, "has no cuMemcpyDtoDAsync_v2"));
}

void driverTooOld() {
  const std::string sentence = THROWN(BackendError, [] {
    inChild({{"MPOPT_CUDA_LIB_DIR", complete}, {"FAKE_CUDA_VERSION", "11080"}}, list);
  });
  CHECK(contains(sentence, "Expected an NVIDIA driver for CUDA 12 or newer but found one for CUDA 11.8"));
}

void driverNewerThanTheLibraries() {
  // A driver runs the libraries of older CUDA versions.
  const std::string text = inChild({{"MPOPT_CUDA_LIB_DIR", complete}, {"FAKE_CUDA_VERSION", "14010"}}, list);
  CHECK(contains(text, "\"cuda\":\"14.1\""));
  CHECK(contains(text, "libcublasLt.so.13"));
}

void libraryNewerThanTheDriver() {
  // Only libcublasLt.so.13 is there, and the driver stops at CUDA 12: devices are listed, GEMM is not measured.
  const std::string text = inChild({{"MPOPT_CUDA_LIB_DIR", complete}, {"FAKE_CUDA_VERSION", "12080"}}, list);
  CHECK(contains(text, "No cuBLASLt for CUDA 12 was found"));
  const std::string with12 = inChild({{"MPOPT_CUDA_LIB_DIR", older}, {"FAKE_CUDA_VERSION", "12080"}}, list);
  CHECK(contains(with12, "120800 from " + older + "/libcublasLt.so.12"));
}

void crashInInit() {
  const std::string sentence = THROWN(BackendError, [] {
    inChild({{"MPOPT_CUDA_LIB_DIR", complete}, {"FAKE_CUDA_MODE", "crash"}}, list);
  });
  CHECK(contains(sentence, "ended by a signal"));
}

void hangInInit() {
  const std::string sentence = THROWN(BackendError, [] {
    inChild({{"MPOPT_CUDA_LIB_DIR", complete}, {"FAKE_CUDA_MODE", "hang"}}, list, 1);
  });
  CHECK(contains(sentence, "did not finish within 1 s"));
}

/// Reasons of the failed probes, with each sentence once.
std::string failures(const char* mode) {
  // Large buffers fail too, which saves the time to fill them.
  return inChild({{"MPOPT_CUDA_LIB_DIR", complete}, {"FAKE_CUDA_MODE", mode}, {"FAKE_CUDA_LARGEST", "40000000"}}, [] {
    std::set<std::string> reasons;
    const Report report = profileNow();
    for (const FailedProbe& failed : report.failedProbes) {
      reasons.insert(failed.probe.substr(0, 4) + ": " + failed.reason);
    }
    std::string text = std::to_string(report.measurements.size() > 0);
    for (const std::string& reason : reasons) text += "\n" + reason;
    return text;
  });
}

void failuresAreRecorded() {
  CHECK(contains(failures("wrong_copy"), "copy: the copy differs from its source"));
  CHECK(contains(failures("wrong_product"), "gemm: the product differs from the one on the host"));
  const std::string algorithm = failures("no_algorithm");
  CHECK(contains(algorithm, "gemm: cuBLASLt answered status 15"));
  // What works is kept.
  CHECK(algorithm[0] == '1');
  CHECK(contains(algorithm, "copy: The NVIDIA driver answered CUDA_ERROR_OUT_OF_MEMORY (2) to allocate memory"));
  CHECK(contains(failures("launch_failed"), "CUDA_ERROR_LAUNCH_FAILED (719) to wait for the device"));
}

void foldersComeInOrder() {
  const std::string text = inChild({{"MPOPT_CUDA_LIB_DIR", "/first"},
                                    {"MPOPT_PYTHON_SITE", "/site/a:/site/b"},
                                    {"CONDA_PREFIX", "/conda"},
                                    {"CUDA_HOME", "/home"},
                                    {"CUDA_PATH", "/path"}},
                                   [] {
                                     std::string all;
                                     for (const std::string& folder : cuda::libraryFolders()) all += folder + " ";
                                     return all;
                                   });
  CHECK(text ==
        "/first /site/a/nvidia/cu13/lib /site/a/nvidia/cublas/lib /site/a/nvidia/nccl/lib /site/b/nvidia/cu13/lib "
        "/site/b/nvidia/cublas/lib /site/b/nvidia/nccl/lib /conda/lib /home/lib64 /path/lib64 ");
}

}  // namespace

int main() {
  return test::run({{"profile of a working GPU", happyPath},
                    {"list names devices and libraries", listNamesTheLibraries},
                    {"a driver without a device", noDevice},
                    {"a driver without a needed symbol", missingSymbol},
                    {"a driver that is too old", driverTooOld},
                    {"a driver newer than the libraries", driverNewerThanTheLibraries},
                    {"a library newer than the driver", libraryNewerThanTheDriver},
                    {"a crash in cuInit ends only the child", crashInInit},
                    {"a hang in cuInit ends at the deadline", hangInInit},
                    {"failures of probes are recorded", failuresAreRecorded},
                    {"folders are searched in order", foldersComeInOrder}});
}
