# usage: unpack.py FOLDER WHEEL..   Unpacks the C++ part of the wheels: headers, libraries of the CPU, CUDA's runtime and compiler.
import re
import sys
import zipfile

WANTED = re.compile(r"torch/include/|torch/version\.py$|torch/lib/lib[^/]*\.so|torch\.libs/|nvidia/.*/lib/lib(cudart|cupti|nvrtc|nvrtc-builtins)\.so")
# Loaded at run time from a full PyTorch where there is a GPU; useless, and half of the size, without one.
UNWANTED = re.compile(r"torch/lib/lib(torch_cuda|torch_nvshmem|torch_python|c10_cuda|caffe2_nvrtc|shm)")

folder, wheels = sys.argv[1], sys.argv[2:]
for wheel in wheels:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if WANTED.match(member.filename) and not UNWANTED.match(member.filename):
                    archive.extract(member, folder)
    except (zipfile.BadZipFile, EOFError) as error:
        sys.exit(f"damaged: {wheel}: {error}")
    except OSError as error:
        sys.exit(f"{wheel}: {error}")
