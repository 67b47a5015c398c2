// UTF-8 checks for names that come from files, and their safe form in messages.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace halfbyte::io {

// Bytes of the longest valid UTF-8 prefix of `text`: text.size() when all of it is valid. Overlong
// forms, surrogates and code points above U+10FFFF are invalid.
std::size_t utf8_valid_prefix(std::string_view text);

// `text` in single quotes for a message: control characters and invalid bytes as \xNN, cut after
// about 120 bytes, so that a hostile file cannot inject line breaks or megabytes into a log.
std::string quote_text(std::string_view text);

}  // namespace halfbyte::io
