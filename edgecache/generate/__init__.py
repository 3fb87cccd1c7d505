"""The bridge to the sandbox: a request becomes a VM's call, the VM's output a response. Called through `source.Source`."""
