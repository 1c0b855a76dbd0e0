#include <cmath>
#include <cstdio>

#include "mpopt/profiler.h"

namespace mpopt {
namespace {

/// Writes JSON text; commas are its own affair.
class Writer {
 public:
  void key(const std::string& name) {
    separate();
    text(name);
    out_ += ':';
    first_ = true;
  }
  void open(char bracket) {
    separate();
    out_ += bracket;
    first_ = true;
  }
  void close(char bracket) {
    out_ += bracket;
    first_ = false;
  }
  void value(const std::string& string) {
    separate();
    text(string);
  }
  void value(double number) {
    separate();
    char buffer[32];
    // JSON has no infinity; a report holds none, and null shows the mistake.
    if (!std::isfinite(number)) {
      out_ += "null";
      return;
    }
    std::snprintf(buffer, sizeof buffer, "%.12g", number);
    out_ += buffer;
  }
  void value(bool boolean) {
    separate();
    out_ += boolean ? "true" : "false";
  }
  template <class T>
  void field(const std::string& name, const T& content) {
    key(name);
    value(content);
  }
  template <class Map>
  void object(const std::string& name, const Map& map) {
    key(name);
    open('{');
    for (const auto& [field_, content] : map) field(field_, content);
    close('}');
  }
  const std::string& result() const { return out_; }

 private:
  void separate() {
    if (!first_) out_ += ',';
    first_ = false;
  }
  void text(const std::string& string) {
    out_ += '"';
    for (const char character : string) {
      const auto byte = static_cast<unsigned char>(character);
      if (character == '"' || character == '\\') {
        out_ += '\\';
        out_ += character;
      } else if (byte < 0x20) {
        char buffer[8];
        std::snprintf(buffer, sizeof buffer, "\\u%04x", byte);
        out_ += buffer;
      } else {
        out_ += character;
      }
    }
    out_ += '"';
  }

  std::string out_;
  bool first_ = true;
};

}  // namespace

std::string toJson(const Report& report) {
  Writer json;
  json.open('{');
  json.field("backend", report.backend);
  json.key("environment");
  json.open('{');
  json.field("processor", report.environment.processor);
  json.field("driver", report.environment.driver);
  json.object("libraries", report.environment.libraries);
  json.object("clocks", report.environment.clocks);
  json.close('}');
  json.key("devices");
  json.open('[');
  for (const DeviceInfo& device : report.devices) {
    json.open('{');
    json.field("index", static_cast<double>(device.index));
    json.field("name", device.name);
    json.field("type", device.type);
    json.field("memoryBytes", device.memoryBytes);
    json.object("attributes", device.attributes);
    json.close('}');
  }
  json.close(']');
  json.key("measurements");
  json.open('[');
  for (const Measurement& measurement : report.measurements) {
    json.open('{');
    json.field("operation", measurement.operation);
    json.field("dtype", measurement.dtype);
    json.field("work", measurement.work);
    json.field("unit", measurement.unit);
    if (!measurement.shape.empty()) json.object("shape", measurement.shape);
    json.field("load", std::string(measurement.load == Load::together ? "together" : "alone"));
    json.field("secondsMedian", measurement.seconds.median);
    json.field("p05", measurement.seconds.p05);
    json.field("p95", measurement.seconds.p95);
    json.field("samples", static_cast<double>(measurement.seconds.samples));
    json.field("confidence95", measurement.seconds.confidence95);
    json.field("converged", measurement.converged);
    json.field("method", measurement.method);
    json.close('}');
  }
  json.close(']');
  json.key("failedProbes");
  json.open('[');
  for (const FailedProbe& failed : report.failedProbes) {
    json.open('{');
    json.field("probe", failed.probe);
    json.field("reason", failed.reason);
    json.close('}');
  }
  json.close(']');
  json.close('}');
  return json.result();
}

}  // namespace mpopt
