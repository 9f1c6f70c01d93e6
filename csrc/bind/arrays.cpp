#include "bind/arrays.h"

#include <algorithm>
#include <limits>

namespace radixkv::bind {

namespace {

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

// The element type of a buffer of tokens, by its format character and width.
TokenType token_type(const Py_buffer& buffer) {
  const char* format = buffer.format == nullptr ? "B" : buffer.format;
  const bool native = *format == '@' || *format == '=' || *format == '<';
  const char kind = native ? format[1] : format[0];
  const bool is_signed = kind == 'i' || kind == 'l' || kind == 'q';
  const bool is_unsigned = kind == 'I' || kind == 'L';
  if (is_signed && buffer.itemsize == 8) return TokenType::kInt64;
  if (is_signed && buffer.itemsize == 4) return TokenType::kInt32;
  if (is_unsigned && buffer.itemsize == 4) return TokenType::kUint32;
  throw py::type_error(std::string("tokens: expected int32, int64 or uint32, got a buffer of '") +
                       format + "'");
}

std::int64_t whole_number(const py::object& limit) {
  try {
    return limit.cast<std::int64_t>();
  } catch (const py::cast_error&) {
    throw py::type_error("limit: expected a whole number, got " + type_name(limit));
  }
}

}  // namespace

TokenArgument::TokenArgument(py::handle tokens) {
  if (!view_array(tokens)) view_buffer(tokens);
  if (num_tokens_ >= std::numeric_limits<std::int32_t>::max()) {
    const std::string got = std::to_string(num_tokens_);
    if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
    throw py::value_error("tokens: expected less than 2^31, got " + got);
  }
}

// The common case without the buffer protocol, which costs numpy as much as a short match costs us.
// False where the array is not plain; the protocol then says what is wrong.
bool TokenArgument::view_array(py::handle tokens) {
  if (!py::isinstance<py::array>(tokens)) return false;
  const auto array = py::reinterpret_borrow<py::array>(tokens);
  const py::dtype type = array.dtype();
  const char kind = type.kind();
  const py::ssize_t width = array.itemsize();
  const bool is_known = (kind == 'i' && (width == 4 || width == 8)) || (kind == 'u' && width == 4);
  if (!is_known || type.byteorder() != '=' || array.ndim() != 1 ||
      (array.flags() & py::array::c_style) == 0) {
    return false;
  }
  data_ = array.data();
  num_tokens_ = static_cast<std::size_t>(array.size());
  type_ = kind == 'u' ? TokenType::kUint32 : width == 4 ? TokenType::kInt32 : TokenType::kInt64;
  return true;
}

void TokenArgument::view_buffer(py::handle tokens) {
  if (PyObject_GetBuffer(tokens.ptr(), &buffer_, PyBUF_ND | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw py::type_error("tokens: expected a contiguous buffer of int32, int64 or uint32, got " +
                         type_name(tokens));
  }
  try {
    if (buffer_.ndim != 1) {
      throw py::type_error("tokens: expected 1 dimension, got " + std::to_string(buffer_.ndim));
    }
    type_ = token_type(buffer_);
  } catch (...) {
    PyBuffer_Release(&buffer_);
    throw;
  }
  data_ = buffer_.buf;
  num_tokens_ = static_cast<std::size_t>(buffer_.len / buffer_.itemsize);
}

TokenView TokenArgument::view(const py::object& limit) const {
  std::size_t num_tokens = num_tokens_;
  if (!limit.is_none()) {
    const std::int64_t most = whole_number(limit);
    if (most < 0) throw py::value_error("limit: expected at least 0, got " + std::to_string(most));
    num_tokens = std::min(num_tokens, static_cast<std::size_t>(most));
  }
  return {data_, num_tokens, type_};
}

ChunkArgument::ChunkArgument(const py::object& chunks) {
  const py::dtype wanted = py::dtype::of<ChunkRef>();
  const bool is_array = py::isinstance<py::array>(chunks);
  if (!is_array || !py::array(chunks).dtype().equal(wanted) || py::array(chunks).ndim() != 1) {
    const std::string got =
        is_array ? py::str(py::array(chunks).dtype()).cast<std::string>() : type_name(chunks);
    throw py::type_error("chunks: expected a 1-d array of CHUNK_DTYPE, got " + got);
  }
  array_ = py::array_t<ChunkRef, py::array::c_style>::ensure(chunks);
}

py::array to_array(const std::vector<ChunkRef>& chunks) {
  return py::array_t<ChunkRef>(static_cast<py::ssize_t>(chunks.size()), chunks.data());
}

}  // namespace radixkv::bind
