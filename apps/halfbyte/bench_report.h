// What `halfbyte bench` prints and writes.
#pragma once

#include <string>
#include <vector>

#include "apps/halfbyte/bench_run.h"
#include "apps/halfbyte/output.h"

namespace halfbyte::app {

struct BenchRow {
  std::string name;  // of the shape or of the model's norm
  BenchShape shape;
  base::DType dtype = base::DType::kBF16;
  bool residual = false;
  BenchTiming timing;
};

struct BenchReport {
  const BenchOperator* op = nullptr;
  BenchOptions options;
  std::string model;  // folder; "": shapes
  std::vector<BenchRow> rows;

  bool bits_equal() const;
  void print() const;
  // {"schema": 1, op, device, date, command, method, .., rows}; docs/performance.md has the fields.
  Json json() const;
};

}  // namespace halfbyte::app
