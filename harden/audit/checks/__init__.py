"""What the checks of an audit measure: one file for each kind of doubt; `harden.audit.diagnostics` lists them."""
