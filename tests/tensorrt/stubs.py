#!/usr/bin/env python3
"""Writes stubs of a header family's abstract classes: stubs.py <header folder> > stubs.h

NVIDIA's API classes hand every call on to an abstract class (VBuilder and so on in NvInferImpl.h), whose virtual table
is what crosses the library's boundary, and what differs from family to family. For each of them this makes a class
that overrides every method and reports a call of it as unexpected. The test library derives from these and overrides
what it has: so it has each family's true layout, and a call of the shim that nobody foresaw is found.
"""
import pathlib
import re
import sys

WANTED = ["VRuntime", "VCudaEngine", "VExecutionContext", "VBuilder", "VBuilderConfig", "VNetworkDefinition",
          "VOptimizationProfile", "VHostMemory", "VTensor", "VTimingCache"]


def uncommented(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def body(text, name):
    found = re.search(rf"\nclass {name}\b[^;{{]*\{{(.*?)\n\}};", text, flags=re.S)
    if not found:
        sys.exit(f"no class {name} in this family")
    return found.group(1)


def stub(text, name, qualified):
    lines = [f"class Stub{name} : public {qualified}", "{", "public:"]
    # Pure virtual methods, and the conditionals around them, which hold for the stub as well.
    pattern = r"(?m)^\s*(#\s*(?:if|else|elif|endif)[^\n]*)|virtual\s+([^;{}]*?)\s*=\s*0\s*;"
    for condition, method in re.findall(pattern, body(text, name)):
        if condition:
            lines.append(condition)
            continue
        method = " ".join(method.split())
        method = re.sub(r"\s*=\s*(nullptr|\w+::\w+|\d+)(?=[,)])", "", method)  # default arguments
        called = re.search(r"([~\w]+)\s*\(", method).group(1)
        lines.append(f'    {method} override {{ unexpected("{name}::{called}"); }}')
    return "\n".join(lines + ["};", ""])


def main():
    folder = pathlib.Path(sys.argv[1])
    impl = uncommented((folder / "NvInferImpl.h").read_text())
    parser = uncommented((folder / "NvOnnxParser.h").read_text())
    print("// Written by stubs.py from", folder.name, "-- not to be edited.\n#pragma once\n#include <NvInfer.h>\n#include <NvOnnxParser.h>")
    print("[[noreturn]] void unexpected(char const* method);\n\nnamespace nvinfer1\n{")
    for name in WANTED:
        print(stub(impl, name, f"apiv::{name}"))
    print("} // namespace nvinfer1\n\nnamespace nvonnxparser\n{")
    for name in ["IParser", "IParserError"]:
        print(stub(parser, name, name))
    print("} // namespace nvonnxparser")


main()
