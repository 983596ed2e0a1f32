"""What is stored on disk, read without its values.

`_read` has `read`, which finds out what a path is and hands it on. `_place` looks at names of folders and
files: roots, steps, items, files of one format; `_listing` is what there is to choose from. `_orbax` puts
together what Orbax keeps of one tree: `_metadata` reads its JSON, `_store` what is known of each array,
`_zarr` and `_sharding` what that says. `_safetensors`, `_npz` and `_msgpack` read one file format each.
`_skeleton` makes a report's columns of paths, `_files` opens files.

Nothing here imports JAX or Orbax, and nothing trusts what a file says: it is checked, and an error names the
file.
"""
