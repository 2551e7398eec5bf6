"""Style transfer: networks of several layers, stylised pictures, contact sheets, their evaluation."""
