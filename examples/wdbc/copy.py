"""Copy every input file to the outputs: what somebody would try who wants the data elsewhere. The copy keeps its origins."""

import shutil

import hortus

for name, folder in hortus.inputs.items():
    for path in folder.rglob("*"):
        if path.is_file():
            target = hortus.outputs / name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            print(f"copied {name}/{path.relative_to(folder)}")
