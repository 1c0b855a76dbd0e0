#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>

#include "../random.h"
#include "cublaslt.h"
#include "driver.h"
#include "mpopt/profiler.h"
#include "mpopt/timing.h"
#include "nvml.h"

namespace mpopt {
namespace {

using namespace cuda;

constexpr std::size_t workspaceBytes = std::size_t{32} << 20;
/// No single wait on the device is longer than this.
constexpr double waitSeconds = 10;

std::string busId(const Driver& driver, Device device) {
  char text[32] = {};
  return driver.deviceGetPciBusId(text, sizeof text, device) == success ? text : "";
}

/// The primary context of one device, current on this thread while the object lives: the one that cuBLASLt
/// and the framework use too.
class DeviceContext {
 public:
  DeviceContext(const Driver& driver, Device device) : driver_(driver), device_(device) {
    driver.check(driver.primaryRetain(&context_, device), "create a context");
    driver.check(driver.setCurrent(context_), "make the context current");
    driver.check(driver.streamCreate(&stream_, 1), "create a stream");
    driver.check(driver.eventCreate(&start_, 0), "create an event");
    driver.check(driver.eventCreate(&end_, 0), "create an event");
  }
  ~DeviceContext() {
    for (const DevicePointer pointer : allocations_) driver_.memFree(pointer);
    driver_.eventDestroy(start_);
    driver_.eventDestroy(end_);
    driver_.streamDestroy(stream_);
    driver_.primaryRelease(device_);
  }
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;

  Stream stream() const { return stream_; }

  DevicePointer allocate(std::size_t bytes) {
    DevicePointer pointer = 0;
    driver_.check(driver_.memAlloc(&pointer, bytes), "allocate memory");
    allocations_.push_back(pointer);
    return pointer;
  }

  void freeAll() {
    for (const DevicePointer pointer : allocations_) driver_.memFree(pointer);
    allocations_.clear();
  }

  /// Seconds that the device needs for what `work` enqueues, between two events on the stream.
  template <class Work>
  double time(const Work& work) {
    driver_.check(driver_.eventRecord(start_, stream_), "record an event");
    work();
    driver_.check(driver_.eventRecord(end_, stream_), "record an event");
    wait();
    float milliseconds = 0;
    driver_.check(driver_.eventElapsed(&milliseconds, start_, end_), "read the time between two events");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  /// Polls instead of blocking in the driver, so that a device that hangs ends in an error.
  void wait() {
    const double end = monotonicClock().seconds() + waitSeconds;
    for (;;) {
      const Result result = driver_.eventQuery(end_);
      if (result == success) return;
      if (result != notReady) driver_.check(result, "wait for the device");
      if (monotonicClock().seconds() > end) {
        throw BackendError("The device did not finish one sample within " + std::to_string(waitSeconds) + " s.");
      }
      std::this_thread::yield();
    }
  }

  const Driver& driver_;
  Device device_;
  Context context_ = nullptr;
  Stream stream_ = nullptr;
  Event start_ = nullptr;
  Event end_ = nullptr;
  std::vector<DevicePointer> allocations_;
};

struct GemmType {
  const char* dtype;
  DataType type;
  ComputeType compute;
  std::size_t elementBytes;
};
constexpr std::array<GemmType, 3> gemmTypes{{
    {"bf16", DataType::bf16, ComputeType::f32, 2},
    {"tf32", DataType::f32, ComputeType::tf32, 4},
    {"f32", DataType::f32, ComputeType::f32, 4},
}};

struct Shape {
  std::uint64_t m;
  std::uint64_t n;
  std::uint64_t k;
};
/// Cubes, and tokens x weight of linear layers as tensor parallelism cuts them.
constexpr std::array<Shape, 16> shapes{{
    {128, 128, 128},
    {256, 256, 256},
    {512, 512, 512},
    {1024, 1024, 1024},
    {2048, 2048, 2048},
    {4096, 4096, 4096},
    {8192, 8192, 8192},
    {512, 4096, 4096},
    {1024, 1024, 4096},
    {2048, 4096, 1024},
    {2048, 8192, 4096},
    {4096, 4096, 2048},
    {4096, 8192, 1024},
    {4096, 14336, 4096},
    {4096, 4096, 14336},
    {8192, 28672, 8192},
}};
constexpr std::size_t quickShapes = 8;

class CudaBackend final : public Backend {
 public:
  Report list() override {
    const auto driver = openDriver();
    Report report;
    describe(report, *driver, 0);
    try {
      describe(report, *openCublasLt(driver->version));
    } catch (const BackendError& error) {
      report.failedProbes.push_back({"cublasLt", error.what()});
    }
    if (const std::string nccl = ncclVersion(); !nccl.empty()) report.environment.libraries["nccl"] = nccl;
    return report;
  }

  Report profile(const Request& request, const Progress& progress) override {
    const auto driver = openDriver();
    Report report;
    describe(report, *driver, request.devices);
    std::unique_ptr<CublasLt> library;
    try {
      library = openCublasLt(driver->version);
      describe(report, *library);
    } catch (const BackendError& error) {
      report.failedProbes.push_back({"gemm", error.what()});
    }
    // Devices of one kind are alike until a probe shows otherwise: the first stands for all.
    Device device = 0;
    driver->check(driver->deviceGet(&device, 0), "cuDeviceGet");
    const Nvml nvml;
    const std::string bus = busId(*driver, device);
    const double usedBefore = nvml.usedBytes(bus);
    DeviceContext context(*driver, device);
    Run run{*driver, context, request, progress, report, monotonicClock().seconds() + budget(request), 0};
    run.points = run.allPoints = copySizes(request.quick).size() + 1 + (library ? gemmPoints(request.quick) : 0);
    measureCopies(run);
    if (library) {
      for (const GemmType& type : gemmTypes) measureGemm(run, *library, type);
    }
    const double usedAfter = nvml.usedBytes(bus);
    if (usedBefore >= 0 && usedAfter > usedBefore) {
      for (DeviceInfo& info : report.devices) info.attributes["contextBytes"] = usedAfter - usedBefore;
    }
    for (const auto& [name, value] : nvml.state(bus)) report.environment.clocks[name] = value;
    return report;
  }

 private:
  struct Run {
    const Driver& driver;
    DeviceContext& context;
    const Request& request;
    const Progress& progress;
    Report& report;
    double end;
    std::size_t allPoints;
    std::size_t points = 0;

    void step(const std::string& message) {
      if (progress) progress(static_cast<double>(allPoints - points) / static_cast<double>(allPoints), message);
    }
    TimingOptions options() {
      const double left = std::max(0.0, end - monotonicClock().seconds());
      TimingOptions options;
      options.maximumSeconds = std::min(2.0, left / static_cast<double>(std::max<std::size_t>(1, points)));
      options.warmupSeconds = std::min(0.2, options.maximumSeconds / 4);
      options.sampleSeconds = 200e-6;
      if (points > 0) --points;
      return options;
    }
    bool spent() const { return monotonicClock().seconds() >= end; }
  };

  static double budget(const Request& request) {
    return request.budgetSeconds > 0 ? request.budgetSeconds : request.quick ? 4.5 : 40;
  }

  static std::vector<std::size_t> copySizes(bool quick) {
    std::vector<std::size_t> sizes;
    for (std::size_t bytes = std::size_t{64} << 10; bytes <= std::size_t{512} << 20; bytes *= quick ? 16 : 4) {
      sizes.push_back(bytes);
    }
    if (sizes.back() < std::size_t{256} << 20) sizes.push_back(std::size_t{512} << 20);
    return sizes;
  }

  static std::size_t gemmPoints(bool quick) {
    return gemmTypes.size() * (quick ? quickShapes : shapes.size());
  }

  static void describe(Report& report, const CublasLt& library) {
    report.environment.libraries["cublasLt"] = std::to_string(library.version) + " from " + library.library->path();
  }

  static void describe(Report& report, const Driver& driver, int limit) {
    report.backend = "cuda";
    int count = 0;
    driver.check(driver.deviceGetCount(&count), "cuDeviceGetCount");
    const Nvml nvml;
    report.environment.driver = nvml.driverVersion();
    report.environment.libraries["cuda"] =
        std::to_string(driver.version / 1000) + "." + std::to_string(driver.version % 1000 / 10);
    for (int index = 0; index < (limit > 0 ? std::min(limit, count) : count); ++index) {
      Device device = 0;
      driver.check(driver.deviceGet(&device, index), "cuDeviceGet");
      char name[256] = {};
      driver.check(driver.deviceGetName(name, sizeof name - 1, device), "cuDeviceGetName");
      std::size_t memory = 0;
      driver.check(driver.deviceTotalMem(&memory, device), "cuDeviceTotalMem");
      const auto attribute = [&](Attribute which) {
        int value = 0;
        return driver.deviceGetAttribute(&value, static_cast<int>(which), device) == success ? value : 0;
      };
      DeviceInfo info;
      info.index = index;
      info.name = name;
      info.type = "cuda";
      info.memoryBytes = static_cast<double>(memory);
      info.attributes = {
          {"computeCapability", attribute(Attribute::computeCapabilityMajor) +
                                    attribute(Attribute::computeCapabilityMinor) / 10.0},
          {"multiprocessors", static_cast<double>(attribute(Attribute::multiprocessors))},
          {"l2Bytes", static_cast<double>(attribute(Attribute::l2Bytes))},
          {"clockHertz", attribute(Attribute::clockKilohertz) * 1e3},
          {"memoryClockHertz", attribute(Attribute::memoryClockKilohertz) * 1e3},
      };
      report.devices.push_back(info);
    }
    if (!report.devices.empty()) report.environment.processor = report.devices.front().name;
  }

  /// Measures and records one point; a failure is recorded and the run goes on.
  template <class Prepare>
  static void point(Run& run, Measurement measurement, const std::string& name, const Prepare& prepare) {
    run.step(name);
    try {
      const TimingOptions options = run.options();
      if (run.spent()) throw BackendError("the time limit of the run was reached before it began");
      const auto enqueue = prepare();
      const Timing timing = measure(
          [&](std::uint64_t calls) {
            return run.context.time([&] {
              for (std::uint64_t call = 0; call < calls; ++call) enqueue(call);
            });
          },
          options, monotonicClock());
      measurement.seconds = timing.seconds;
      measurement.converged = timing.converged;
      run.report.measurements.push_back(std::move(measurement));
    } catch (const std::exception& error) {
      run.report.failedProbes.push_back({name, error.what()});
    }
    run.context.freeAll();
  }

  static void measureCopies(Run& run) {
    const auto copy = [&](std::size_t bytes, Measurement measurement, const std::string& name) {
      point(run, std::move(measurement), name, [&run, bytes] {
        const DevicePointer from = run.context.allocate(bytes);
        const DevicePointer to = run.context.allocate(bytes);
        upload(run, from, bytes, 1);
        verifyCopy(run, from, to, bytes);
        return [&run, from, to, bytes](std::uint64_t) {
          run.driver.check(run.driver.copyOnDevice(to, from, bytes, run.context.stream()), "copy on the device");
        };
      });
    };
    Measurement launch;
    launch.operation = "launch";
    launch.dtype = "i8";
    launch.work = 1;
    launch.unit = "call";
    launch.method = "copy of 256 bytes on the device, back to back between two events";
    copy(256, launch, "launch");
    for (const std::size_t bytes : copySizes(run.request.quick)) {
      Measurement measurement;
      measurement.operation = "copy";
      measurement.dtype = "f32";
      measurement.work = 2 * static_cast<double>(bytes);
      measurement.unit = "byte";
      measurement.method = "cuMemcpyDtoDAsync between two events, read and written bytes";
      copy(bytes, measurement, "copy " + std::to_string(bytes) + " bytes");
    }
  }

  static void measureGemm(Run& run, const CublasLt& library, const GemmType& type) {
    bool checked = false;
    for (std::size_t i = 0; i < (run.request.quick ? quickShapes : shapes.size()); ++i) {
      const Shape shape = shapes[i];
      const auto m = static_cast<double>(shape.m);
      const auto n = static_cast<double>(shape.n);
      const auto k = static_cast<double>(shape.k);
      Measurement measurement;
      measurement.operation = "gemm";
      measurement.dtype = type.dtype;
      measurement.work = 2 * m * n * k;
      measurement.unit = "flop";
      measurement.shape = {{"m", m}, {"n", n}, {"k", k}};
      measurement.method =
          "cublasLtMatmul, x (m x k) times w' (n x k), heuristic algorithm, 32 MiB workspace, inputs rotated past "
          "the level 2 cache, between two events";
      char name[96];
      std::snprintf(name, sizeof name, "gemm %s m=%.0f n=%.0f k=%.0f", type.dtype, m, n, k);
      point(run, std::move(measurement), name, [&, shape] {
        auto product = std::make_shared<LinearProduct>(library, type.type, type.compute, shape.m, shape.n, shape.k,
                                                       workspaceBytes);
        const std::size_t xBytes = shape.m * shape.k * type.elementBytes;
        const std::size_t wBytes = shape.n * shape.k * type.elementBytes;
        const double l2 = std::max(run.report.devices.front().attributes["l2Bytes"], 1e6);
        const auto copies = static_cast<std::size_t>(
            std::clamp(std::ceil(2 * l2 / static_cast<double>(xBytes + wBytes)), 1.0, 32.0));
        std::vector<DevicePointer> x;
        std::vector<DevicePointer> w;
        for (std::size_t copy = 0; copy < copies; ++copy) {
          x.push_back(run.context.allocate(xBytes));
          w.push_back(run.context.allocate(wBytes));
          uploadElements(run, x.back(), shape.m * shape.k, type.elementBytes, 2 * copy + 3);
          uploadElements(run, w.back(), shape.n * shape.k, type.elementBytes, 2 * copy + 4);
        }
        const DevicePointer y = run.context.allocate(shape.m * shape.n * type.elementBytes);
        const DevicePointer workspace = run.context.allocate(workspaceBytes);
        if (!checked) verifyProduct(run, *product, shape, type, x[0], w[0], y, workspace);
        checked = true;
        return [&run, product, x, w, y, workspace](std::uint64_t call) {
          const std::size_t which = call % x.size();
          product->enqueue(x[which], w[which], y, workspace, run.context.stream());
        };
      });
    }
  }

  /// Random bytes; one block is made and repeated, since making gigabytes on the host takes longer than measuring.
  static void upload(Run& run, DevicePointer to, std::size_t bytes, std::uint64_t seed) {
    std::vector<std::uint64_t> block(std::min<std::size_t>(bytes / 8 + 1, std::size_t{1} << 19));
    for (std::size_t i = 0; i < block.size(); ++i) block[i] = randomBits(seed, i);
    uploadRepeated(run, to, bytes, block.data(), block.size() * 8);
  }

  static void uploadElements(Run& run, DevicePointer to, std::size_t count, std::size_t elementBytes,
                             std::uint64_t seed) {
    const std::size_t length = std::min(count, randomPeriod);
    if (elementBytes == 2) {
      std::vector<std::uint16_t> block(length);
      fillRandomBf16(block.data(), length, seed);
      uploadRepeated(run, to, count * 2, block.data(), length * 2);
    } else {
      std::vector<float> block(length);
      fillRandom(block.data(), length, seed);
      uploadRepeated(run, to, count * 4, block.data(), length * 4);
    }
  }
  static void uploadRepeated(Run& run, DevicePointer to, std::size_t bytes, const void* block, std::size_t length) {
    for (std::size_t at = 0; at < bytes; at += length) {
      run.driver.check(run.driver.copyToDevice(to + at, block, std::min(length, bytes - at)), "upload the inputs");
    }
  }

  static void verifyCopy(Run& run, DevicePointer from, DevicePointer to, std::size_t bytes) {
    run.context.time([&] {
      run.driver.check(run.driver.copyOnDevice(to, from, bytes, run.context.stream()), "copy on the device");
    });
    const std::size_t part = std::min<std::size_t>(bytes, 4096);
    std::vector<char> expected(part);
    std::vector<char> found(part);
    for (const std::size_t at : {std::size_t{0}, bytes - part}) {
      run.driver.check(run.driver.copyToHost(expected.data(), from + at, part), "read the source");
      run.driver.check(run.driver.copyToHost(found.data(), to + at, part), "read the copy");
      if (expected != found) throw BackendError("the copy differs from its source");
    }
  }

  /// Compares some elements of the first product with the sum over k on the host.
  static void verifyProduct(Run& run, const LinearProduct& product, const Shape& shape, const GemmType& type,
                            DevicePointer x, DevicePointer w, DevicePointer y, DevicePointer workspace) {
    run.context.time([&] { product.enqueue(x, w, y, workspace, run.context.stream()); });
    const auto element = [&](DevicePointer matrix, std::uint64_t index) {
      std::uint32_t bits = 0;
      run.driver.check(run.driver.copyToHost(&bits, matrix + index * type.elementBytes, type.elementBytes),
                       "read an element");
      if (type.elementBytes == 2) return static_cast<double>(fromBf16(static_cast<std::uint16_t>(bits)));
      float value = 0;
      std::memcpy(&value, &bits, sizeof value);
      return static_cast<double>(value);
    };
    for (const auto& [i, j] : {std::pair<std::uint64_t, std::uint64_t>{0, 0}, {shape.m - 1, shape.n - 1}, {1, 3}}) {
      double exact = 0;
      double magnitude = 0;
      for (std::uint64_t p = 0; p < shape.k; ++p) {
        const double term = element(x, i * shape.k + p) * element(w, j * shape.k + p);
        exact += term;
        magnitude += std::abs(term);
      }
      // bf16 keeps 8 bits of the result, TF32 11 bits of each factor: 1 % of the sum of magnitudes covers both
      // and still catches a wrong layout.
      const double difference = std::abs(element(y, i * shape.n + j) - exact);
      if (!(difference <= 0.01 * magnitude)) throw BackendError("the product differs from the one on the host");
    }
  }
};

}  // namespace

std::unique_ptr<Backend> makeCudaBackend() { return std::make_unique<CudaBackend>(); }

}  // namespace mpopt
