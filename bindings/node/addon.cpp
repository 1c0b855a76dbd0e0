// The profiler for Node.js: list(backend) and profile(request, onProgress), both promises of the report's JSON.
#include <napi.h>

#include <functional>
#include <string>
#include <utility>

#include "mpopt/profiler.h"

namespace {

struct Step {
  double fraction = 0;
  std::string message;
};

/// Runs one job on a thread of libuv's pool and settles a promise with what it returns or throws.
class Worker final : public Napi::AsyncProgressQueueWorker<Step> {
 public:
  using Job = std::function<std::string(const mpopt::Progress&)>;

  Worker(Napi::Env env, Job job, Napi::Function onProgress)
      : Napi::AsyncProgressQueueWorker<Step>(env), job_(std::move(job)), deferred_(Napi::Promise::Deferred::New(env)) {
    if (!onProgress.IsEmpty()) onProgress_ = Napi::Persistent(onProgress);
  }

  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute(const ExecutionProgress& execution) override {
    result_ = job_([&execution](double fraction, const std::string& message) {
      const Step step{fraction, message};
      execution.Send(&step, 1);
    });
  }

  void OnProgress(const Step* steps, std::size_t count) override {
    if (onProgress_.IsEmpty() || !steps) return;
    Napi::HandleScope scope(Env());
    for (std::size_t i = 0; i < count; ++i) {
      onProgress_.Call({Napi::Number::New(Env(), steps[i].fraction), Napi::String::New(Env(), steps[i].message)});
    }
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    deferred_.Resolve(Napi::String::New(Env(), result_));
  }

  void OnError(const Napi::Error& error) override {
    Napi::HandleScope scope(Env());
    deferred_.Reject(error.Value());
  }

 private:
  Job job_;
  Napi::Promise::Deferred deferred_;
  Napi::FunctionReference onProgress_;
  std::string result_;
};

Napi::Value start(Napi::Env env, Worker::Job job, Napi::Function onProgress) {
  // Deletes itself when it is done.
  auto* worker = new Worker(env, std::move(job), onProgress);
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

std::string backendName(const Napi::CallbackInfo& info, const Napi::Value& value) {
  if (!value.IsString()) throw Napi::TypeError::New(info.Env(), "Expected the name of a backend, cpu or cuda.");
  return value.As<Napi::String>();
}

Napi::Value list(const Napi::CallbackInfo& info) {
  const std::string backend = backendName(info, info[0]);
  return start(
      info.Env(), [backend](const mpopt::Progress&) { return mpopt::toJson(mpopt::makeBackend(backend)->list()); },
      Napi::Function());
}

double number(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : 0;
}

Napi::Value profile(const Napi::CallbackInfo& info) {
  if (!info[0].IsObject()) throw Napi::TypeError::New(info.Env(), "Expected a request {backend, quick, devices}.");
  const Napi::Object object = info[0].As<Napi::Object>();
  const std::string backend = backendName(info, object.Get("backend"));
  mpopt::Request request;
  request.quick = object.Get("quick").ToBoolean();
  request.devices = static_cast<int>(number(object, "devices"));
  request.budgetSeconds = number(object, "budgetSeconds");
  return start(
      info.Env(),
      [backend, request](const mpopt::Progress& progress) {
        return mpopt::toJson(mpopt::makeBackend(backend)->profile(request, progress));
      },
      info[1].IsFunction() ? info[1].As<Napi::Function>() : Napi::Function());
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("list", Napi::Function::New(env, list));
  exports.Set("profile", Napi::Function::New(env, profile));
  return exports;
}

}  // namespace

NODE_API_MODULE(mpopt_native, init)
