// Errors are values. Nothing in the library prints, aborts or exits: every entry point returns a
// Status, whose message names the operator, the argument, what was expected and what was given.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace halfbyte::base {

// The values are part of the C ABI (halfbyte.h) and never change.
enum class StatusCode : std::int32_t {
  kOk = 0,
  kInvalidArgument = 1,  // the caller's arguments are wrong; nothing was written
  kUnsupported = 2,      // well-formed, but this build or device cannot do it
  kData = 3,             // a file or its contents break a rule
  kIo = 4,               // the operating system refused
  kCuda = 5,             // the CUDA runtime reported an error
  kInternal = 6,         // a bug in halfbyte
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// "argument: expected X, got Y". The operator's name is put in front by `in_operator`.
inline Status invalid_argument(const std::string& argument, const std::string& expected,
                               const std::string& actual) {
  return {StatusCode::kInvalidArgument, argument + ": expected " + expected + ", got " + actual};
}

inline Status unsupported(const std::string& what) { return {StatusCode::kUnsupported, what}; }

// Prefixes the message of an error with the operator it came from; ok stays ok.
inline Status in_operator(const char* name, Status status) {
  if (status.ok()) return status;
  return {status.code(), std::string(name) + ": " + status.message()};
}

// Either a value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(state_); }
  const Status& status() const {
    static const Status kOk;
    return ok() ? kOk : std::get<Status>(state_);
  }
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }

 private:
  std::variant<Status, T> state_;
};

}  // namespace halfbyte::base

// Returns early with the error of an expression that yields a Status.
#define HALFBYTE_RETURN_IF_ERROR(expression)                                              \
  do {                                                                                    \
    if (::halfbyte::base::Status halfbyte_status_ = (expression); !halfbyte_status_.ok()) \
      return halfbyte_status_;                                                            \
  } while (false)
