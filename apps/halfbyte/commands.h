// The commands of the program. Each adds its options to the parser; when the command line has
// selected it, `run` does the work and returns the exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace halfbyte::app {

struct Command {
  CLI::App* parser = nullptr;
  std::function<int()> run;
};

Command add_quantize(CLI::App& program);
Command add_dequantize(CLI::App& program);
Command add_convert(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_compare(CLI::App& program);
Command add_op(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_doctor(CLI::App& program);

}  // namespace halfbyte::app
