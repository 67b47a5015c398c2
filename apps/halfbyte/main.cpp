// halfbyte: the command line program. Commands live in cmd_*.cpp; the work is done by the library.
#include <array>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <string_view>

#include "apps/halfbyte/commands.h"
#include "apps/halfbyte/output.h"

namespace halfbyte::app {
namespace {

// "" for a command of `commands`, else what is wrong with `name` ("": none was given).
std::string unknown_command(const std::string& name, std::span<const Command> commands) {
  std::string known;
  for (const Command& command : commands) {
    if (command.parser->get_name() == name) return "";
    known += (known.empty() ? "" : ", ") + command.parser->get_name();
  }
  return "command: expected one of " + known + ", got " +
         (name.empty() ? "none" : "'" + name + "'");
}

int run(int argc, char** argv) {
  CLI::App program{
      "Fused FP4 kernels for LLM inference: quantize checkpoints, run and time single operators.",
      "halfbyte"};
  program.set_version_flag("--version", std::string("halfbyte ") + HALFBYTE_VERSION);
  program.footer("Example:\n  halfbyte quantize models/llama models/llama-nvfp4");
  program.require_subcommand(1);
  const std::array commands = {add_quantize(program), add_dequantize(program), add_convert(program),
                               add_inspect(program),  add_compare(program),    add_op(program),
                               add_bench(program),    add_doctor(program)};
  try {
    const std::string first = argc > 1 ? argv[1] : "";
    if (!first.starts_with('-')) {
      if (const std::string problem = unknown_command(first, commands); !problem.empty()) {
        return print_error(kExitUsage, problem);
      }
    }
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    return print_error(kExitUsage, error.what());
  }
  for (const Command& command : commands) {
    if (command.parser->parsed()) return command.run();
  }
  return kExitUsage;
}

}  // namespace
}  // namespace halfbyte::app

int main(int argc, char** argv) {
  namespace app = halfbyte::app;
  int code = app::kExitData;
  try {
    code = app::run(argc, argv);
  } catch (const std::exception& error) {  // out of memory; anything else is a bug
    code = app::print_error(app::kExitData, error.what());
  }
  // A report that did not reach the disk is not a success.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    code = app::print_error(app::kExitData, "stdout: cannot write");
  }
  return code;
}
